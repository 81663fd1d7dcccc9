"""Nominal dense peaks and memory of GPUs, from NVIDIA's data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: TFLOP/s by `precision`, memory in bytes, and what torch calls it."""

    peak: dict[str, float]
    memory: float
    torch_name: str


GPUS: dict[str, Gpu] = {
    "a100": Gpu({"fp32": 19.5, "tf32": 156, "amp_bf16": 312}, 80e9, "A100"),
    "a100-40gb": Gpu({"fp32": 19.5, "tf32": 156, "amp_bf16": 312}, 40e9, "A100-SXM4-40GB"),
    "h100": Gpu({"fp32": 67, "tf32": 495, "amp_bf16": 989}, 80e9, "H100"),
    "h200": Gpu({"fp32": 67, "tf32": 495, "amp_bf16": 989}, 141e9, "H200"),
    "b200": Gpu({"fp32": 80, "tf32": 1100, "amp_bf16": 2250}, 180e9, "B200"),
}


def mfu(flops_per_second: float, gpu: str, precision: str) -> float:
    """Model FLOPs utilization: the share of one GPU's nominal dense peak."""
    return flops_per_second / (GPUS[gpu].peak[precision] * 1e12)
