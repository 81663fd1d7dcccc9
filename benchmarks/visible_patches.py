"""Embedding the visible patches only against embedding all of them and leaving out three quarters.

    python -m benchmarks.visible_patches [--size vit_b16] [--batch 32] [--rounds 9] [--threads 1]

Method: in one process, both forms take turns on the same generated images: forward and backward of what lies between
images and the first block (patch embedding, positions, selection). Medians of the processor's time on CPUs, where other
processes count for little then; of time on the device on GPUs. The share of a whole step is arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.nn.functional import linear

from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import SIZES, visible_patches
from maws_composer.models.vit import VisionTransformer, pixels_of
from maws_composer.planning.flops import mae_macs


def embed_all(encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    patches = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    return patches.gather(1, visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


def embed_visible(encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    projection = encoder.patch_embed.proj
    pixels = pixels_of(images, visible, encoder.grid, encoder.size.patch_size)
    return linear(pixels, projection.weight.flatten(1), projection.bias) + encoder.pos_embed[0, 1:][visible]


FORMS = {"all": embed_all, "visible": embed_visible}


def measure(form: str, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> float:
    """Seconds of forward and backward."""
    encoder.zero_grad()
    _wait(images)
    began = _now(images)
    FORMS[form](encoder, images, visible).sum().backward()
    _wait(images)
    return _now(images) - began


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def _now(images: Tensor) -> float:
    return time.perf_counter() if images.is_cuda else time.process_time()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="vit_b16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = SIZES[options.size]
    encoder = VisionTransformer(size, fixed_positions=True)
    initialize(encoder, seed=0)
    encoder.to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, 224, 224, generator=generator).to(device)
    noise = torch.rand(options.batch, size.patches(224), generator=generator).to(device)
    visible = noise.argsort(1)[:, : visible_patches(size.patches(224), 0.75)]
    rounds = [{form: measure(form, encoder, images, visible) for form in FORMS} for _ in range(options.rounds + 1)][1:]
    seconds = {form: statistics.median(each[form] for each in rounds) for form in FORMS}
    ratios = [each["all"] / each["visible"] for each in rounds]
    print(
        f"{options.size}, {options.batch} images on {device.type}: all {seconds['all'] * 1e3:.1f} ms, visible "
        f"{seconds['visible'] * 1e3:.1f} ms: {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    hidden = size.patches(224) - visible.shape[1]
    saved, total = hidden * size.patch_values * size.width, mae_macs(size).total
    # forward, and the weight's gradient; images have none
    print(f"saved of the step's multiply-accumulates: {2 * saved / (3 * total):.2%}")


if __name__ == "__main__":
    main()
