"""Our training steps against those of others: MAE, WSP and LiT, in turn in one process.

    python -m benchmarks.peer_step [key=value ...] [--stages mae wsp lit] [--batch 16] [--rounds 7] [--threads 1]
        [--mae-repo PATH]

Method: a step is forward, backward and AdamW, in fp32, on one generated batch that is in memory. Ours is what training
does: normalizing uint8 images, drawing masks, parameters sharded by FSDP2 over the one process, AdamW's fused kernel.
The others get images that are normalized already, and plain modules with AdamW as torch has it by default:

- mae: the authors' algorithm on today's timm (`mae_on_timm.py`), with our weights and our masks, so that its loss has
  to be ours; with `--mae-repo`, a checkout of facebookresearch/mae, their own module instead.
- wsp: timm's VisionTransformer and its SoftTargetCrossEntropy, on dense targets.
- lit: open_clip's CustomTextCLIP with the image tower locked, and ClipLoss; where it is not importable, that is said.

Rounds alternate; what is compared are medians of the processor's time of a step, of all threads, in which other
processes have little part. A round before the first is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE, CLASSES, LENGTH, EMBED = 224, 1000, 64, 256
STAGES = ("mae", "wsp", "lit")
Step = Callable[[], Tensor]


def run_of(stage: str, options: argparse.Namespace, folder: Path) -> Any:
    """A small recipe: ViT-Ti/16, with a decoder or a text tower to go with it."""
    from transformers import XLMRobertaConfig

    from maws_composer.config.plugins import load_with_ours

    XLMRobertaConfig(
        vocab_size=4000, hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768,
        max_position_embeddings=LENGTH + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)  # fmt: skip
    given = {
        "mae": ["model.decoder.width=192", "model.decoder.depth=4", "model.decoder.heads=6"],
        "wsp": [f"model.num_classes={CLASSES}"],
        "lit": [f"model.text.name={folder}", f"model.text.context_length={LENGTH}", f"model.embed_dim={EMBED}"],
    }[stage]
    always = ["precision=fp32", "speed.compile=false", "gradient_clip=null", "model.size=vit_ti16"]
    always += [f"global_train_batch_size={options.batch}", "data.train.local=generated"]
    return load_with_ours(f"yamls/{stage}_vitb.yaml", [*always, *given, *options.overrides]).run


def steps_of(stage: str, options: argparse.Namespace, folder: Path) -> tuple[Step, Step]:
    """Our step and theirs; each returns its loss."""
    from benchmarks.training_step import generated, step
    from maws_composer.optim.build import build_optimizer
    from maws_composer.parallel.shard import shard
    from maws_composer.planning.microbatch import agree_on_memory
    from maws_composer.stages.build import build_stage
    from maws_composer.stages.pixels import normalize

    run = run_of(stage, options, folder)
    ours, (_, speed) = build_stage(run), agree_on_memory(run)
    shard(ours, speed, run.precision, run.seed, torch.device("cpu"))
    batch = generated(run, options.batch, "cpu")
    optimizer = build_optimizer(ours, run)
    model, loss = THEIRS[stage](run, ours, {**batch, "image": normalize(batch["image"])}, options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=optimizer.param_groups[0]["lr"])

    def their_step() -> Tensor:
        value = loss()
        value.backward()
        adamw.step()
        adamw.zero_grad()
        return value.detach()

    return partial(step, ours, optimizer, batch, run), their_step


def their_mae(run: Any, ours: Any, batch: dict[str, Any], options: argparse.Namespace) -> tuple[nn.Module, Step]:
    from benchmarks.mae_on_timm import MaeOnTimm
    from maws_composer.data.randomness import mask_noise
    from maws_composer.registry import lookup

    size, decoder = lookup("size", run.model["size"]).builder, run.model["decoder"]
    if options.mae_repo:
        authors = authors_mae(options.mae_repo, size, decoder)
        return authors, lambda: authors(batch["image"], mask_ratio=0.75)[0]
    model = MaeOnTimm(size, decoder, SIDE)
    weights = {name.removeprefix("mae.").removeprefix("encoder."): value for name, value in ours.state_dict().items()}
    model.load_state_dict({name: value.full_tensor() for name, value in weights.items()})
    noise = mask_noise(run.seed, batch["epoch"], batch["position"], size.patches(SIDE))
    return model, lambda: model(batch["image"], noise)


def authors_mae(repo: Path, size: Any, decoder: Any) -> nn.Module:
    """Their module, with what it needs of the timm and the NumPy of its time."""
    import numpy as np
    from timm.models.vision_transformer import Block

    sys.path.insert(0, str(repo))
    np.float = float  # type: ignore[attr-defined]
    models_mae: Any = importlib.import_module("models_mae")
    models_mae.Block = lambda *given, qk_scale, **named: Block(*given, **named)
    return models_mae.MaskedAutoencoderViT(
        SIDE, size.patch_size, 3, size.width, size.depth, size.heads, decoder.width, decoder.depth, decoder.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), norm_pix_loss=True,
    )  # fmt: skip


def their_wsp(run: Any, ours: Any, batch: dict[str, Any], options: argparse.Namespace) -> tuple[nn.Module, Step]:
    from timm.loss import SoftTargetCrossEntropy
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(SIDE, embed_dim=192, num_heads=3, num_classes=CLASSES)
    labels = batch["labels"]
    targets = torch.zeros(len(labels), CLASSES).scatter_(1, labels, 1 / labels.shape[1])
    criterion = SoftTargetCrossEntropy()
    return model, lambda: criterion(model(batch["image"]), targets)


def their_lit(run: Any, ours: Any, batch: dict[str, Any], options: argparse.Namespace) -> tuple[nn.Module, Step]:
    import open_clip

    model = open_clip.CustomTextCLIP(
        EMBED,
        {"image_size": SIDE, "layers": 12, "width": 192, "head_width": 64, "patch_size": 16},
        {
            "hf_model_name": run.model["text"].name, "hf_model_pretrained": False,
            "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "linear",
        },
    )  # fmt: skip
    model.lock_image_tower()
    criterion = open_clip.ClipLoss()
    return model, lambda: criterion(*model(batch["image"], batch["input_ids"]))


THEIRS = {"mae": their_mae, "wsp": their_wsp, "lit": their_lit}


def seconds(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def compare(stage: str, options: argparse.Namespace, folder: Path) -> None:
    ours, theirs = steps_of(stage, options, folder)
    first = ours(), theirs()
    if stage == "mae" and not options.mae_repo:
        torch.testing.assert_close(*first, rtol=1e-5, atol=0.0)
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
    own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = [theirs / ours for ours, theirs in rounds]
    print(
        f"{stage}: ours {own * 1e3:.0f} ms, theirs {other * 1e3:.0f} ms: {other / own:.2f} x as fast "
        f"(rounds {min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value for ours, as for train.py")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mae-repo", type=Path, help="a checkout of facebookresearch/mae")
    options = parser.parse_intermixed_args(arguments)
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NODE_RANK="0")

    from composer.utils import dist

    from maws_composer.models.sizes import ViTSize
    from maws_composer.parallel.leave import leave_process_group
    from maws_composer.parallel.precision import build_device
    from maws_composer.registry import register_size

    torch.set_num_threads(options.threads)
    dist.initialize_dist(build_device("fp32"), timeout=300)
    register_size("vit_ti16")(ViTSize(width=192, depth=12, heads=3, patch_size=16))
    print(f"ViT-Ti/16 at {SIDE}, {options.batch} images, fp32, {options.threads} threads, CPU")
    with tempfile.TemporaryDirectory() as folder:
        for stage in options.stages:
            if stage == "lit" and importlib.util.find_spec("open_clip") is None:
                print("lit: open_clip is not importable; pip install --no-deps --target FOLDER open_clip_torch ftfy")
                continue
            compare(stage, options, Path(folder))
    leave_process_group()


if __name__ == "__main__":
    main()
