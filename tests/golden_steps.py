"""50 steps of the MAE stage in Composer's loop on generated arrays: no files, no decoder, nothing but arithmetic."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from composer import Callback, Trainer
from composer.core import Time

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.run import Run
from maws_composer.data.randomness import philox
from maws_composer.data.settings import Data, TrainData
from maws_composer.models.sizes import DecoderSize
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.schedule import build_schedule
from maws_composer.optim.settings import OptimizerSettings
from maws_composer.parallel.leave import leave_process_group
from maws_composer.parallel.settings import Speed
from maws_composer.parallel.shard import already_sharded, shard
from maws_composer.resilience.loss_spikes import LossSpikes
from maws_composer.stages.mae import MaeStage

STEPS, BATCH, SIZE = 50, 16, 24


def batches() -> list[dict]:
    """Colored checkers of random scale, from integers alone."""
    positions = torch.arange(STEPS * BATCH)
    words = philox((7, 0), (positions, positions * 0, positions * 0, positions * 0))
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    period = 3 + words[0] % 9
    checker = ((y[None] // period[:, None, None]) + (x[None] // period[:, None, None])) % 2
    color = torch.stack([words[1] % 256, words[2] % 256, words[3] % 256], 1)[:, :, None, None]
    images = torch.where(checker[:, None].bool(), color, 255 - color).to(torch.uint8)
    flags = torch.ones(BATCH, dtype=torch.bool)
    return [
        {"image": image, "position": position, "epoch": torch.zeros_like(position), "valid": flags, "replaced": ~flags}
        for image, position in zip(images.split(BATCH), positions.split(BATCH), strict=True)
    ]


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def batch_end(self, state, logger) -> None:
        self.values.append(state.total_loss_dict["loss/train/total"])


def main() -> None:
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NODE_RANK="0")
    dist.init_process_group("gloo")
    run = Run(
        stage="mae", model={}, data=Data(train=TrainData(local="nowhere")), global_train_batch_size=BATCH,
        max_duration=f"{STEPS * BATCH}sp", optimizer=OptimizerSettings(base_lr=0.02), gradient_clip=0.5,
    )  # fmt: skip
    with torch.device("meta"):
        stage = MaeStage("vit_micro", SIZE, decoder=DecoderSize(32, 1, 2), run=run)
    shard(stage, Speed(), "fp32", seed=0, device=torch.device("cpu"))
    optimizer, losses = build_optimizer(stage, run), Losses()
    trainer = Trainer(
        model=stage,
        train_dataloader=torch.utils.data.DataLoader(batches(), batch_size=None),
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, run),
        step_schedulers_every_batch=True,
        callbacks=[LossSpikes(run, RunFolder("nowhere", Path("nowhere"))), losses],
        max_duration=Time(STEPS * BATCH, "sp"),
        device="cpu",
        device_train_microbatch_size=BATCH,
        precision="fp32",
        parallelism_config={"fsdp": already_sharded()},
        progress_bar=False,
    )
    trainer.fit()
    print(json.dumps({"losses": losses.values}), flush=True)
    trainer.close()
    leave_process_group()


if __name__ == "__main__":
    sys.exit(main())
