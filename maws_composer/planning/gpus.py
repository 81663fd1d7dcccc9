"""Nominal dense peaks, memory and links of GPUs, from NVIDIA's data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        peak: TFLOP/s by `precision`.
        memory: bytes.
        link: bytes/s that reach it from the other GPUs of its node: half of what is sold as NVLink's bandwidth.
    """

    peak: dict[str, float]
    memory: float
    link: float


GPUS: dict[str, Gpu] = {
    "a100": Gpu({"fp32": 19.5, "tf32": 156, "amp_bf16": 312}, 80e9, 300e9),
    "a100-40gb": Gpu({"fp32": 19.5, "tf32": 156, "amp_bf16": 312}, 40e9, 300e9),
    "h100": Gpu({"fp32": 67, "tf32": 495, "amp_bf16": 989}, 80e9, 450e9),
    "h200": Gpu({"fp32": 67, "tf32": 495, "amp_bf16": 989}, 141e9, 450e9),
    "b200": Gpu({"fp32": 80, "tf32": 1100, "amp_bf16": 2250}, 180e9, 900e9),
}

_SLOWER = {"pcie", "nvl"}  # forms of the same name with other peaks, from H100 on


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s of a GPU by the name that torch.cuda has for it: "NVIDIA H100 80GB HBM3". None: not one of GPUS."""
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    kind = next((kind for kind in GPUS if kind in words), None)
    if kind is None or (kind != "a100" and words & _SLOWER):
        return None
    return GPUS[kind].peak[precision] * 1e12
