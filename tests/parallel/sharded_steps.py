"""One rank of a few training steps on a sharded miniature MAE; prints losses and a digest of the initial weights."""

import hashlib
import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from maws_composer.config.run import Run
from maws_composer.data.settings import Data, TrainData
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.settings import OptimizerSettings
from maws_composer.parallel.leave import leave_process_group
from maws_composer.parallel.settings import Sharding, Speed
from maws_composer.parallel.shard import require_sharded, shard

BATCH = 8


class Stage(nn.Module):
    """What `shard` asks of a stage, around the real model."""

    def __init__(self) -> None:
        super().__init__()
        # 36 wide: nothing divides evenly over 2 or 4 ranks
        encoder = VisionTransformer(ViTSize(36, 3, 3, 6), 24, fixed_positions=True)
        self.mae = MaskedAutoencoder(encoder, DecoderSize(20, 2, 1))

    def blocks(self) -> list[nn.Module]:
        return [*self.mae.encoder.blocks, *self.mae.decoder_blocks]

    def initialize_parameter(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        self.mae.initialize_parameter(name.removeprefix("mae."), tensor, generator)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main(options: dict) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=4321))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with torch.device("meta"):
        stage = Stage()
    speed = Speed(
        sharding=Sharding(shard=options.get("shard"), reshard_after_forward=options.get("reshards", True)),
        activation_checkpointing=options.get("checkpointing", "none"),
        compile=options.get("compile", False),
    )
    mesh = shard(stage, speed, "fp32", seed=3, device=torch.device("cpu"))
    require_sharded(stage, mesh)
    digest = hashlib.sha256()
    for name, parameter in sorted(stage.named_parameters()):
        digest.update(name.encode() + whole(parameter).detach().numpy().tobytes())
    run = Run(
        stage="mae", model={}, data=Data(train=TrainData()), global_train_batch_size=BATCH,
        max_duration=f"{BATCH}sp", optimizer=OptimizerSettings(base_lr=0.1),
    )  # fmt: skip
    optimizer = build_optimizer(stage, run)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(options.get("steps", 5)):
        images = torch.randn(BATCH, 3, 24, 24, generator=generator).chunk(world_size)[rank]
        noise = torch.randint(0, 2**32, (BATCH, 16), generator=generator).chunk(world_size)[rank]
        loss = stage.mae(images, noise).loss
        loss.backward()
        # clipping makes a wrong scale of the gradients visible, which Adam alone would hide
        torch.nn.utils.clip_grad_norm_([p for p in stage.parameters() if p.requires_grad], 0.05)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().double()
        dist.all_reduce(total)
        losses.append(total.item() / world_size)
    patience = [
        group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in mesh.get_all_groups()
    ]
    said = {"losses": losses, "initial": digest.hexdigest(), "mesh": list(mesh.shape), "patience": patience}
    print(json.dumps(said))
    leave_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
