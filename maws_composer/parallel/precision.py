"""What `precision` means on this machine."""

from __future__ import annotations

import torch
from composer.devices import Device, DeviceCPU, DeviceGPU

from maws_composer.config.problems import ConfigError, Problem

COMPOSER_PRECISION = {"fp32": "fp32", "tf32": "fp32", "amp_bf16": "amp_bf16"}


def build_device(precision: str) -> Device:
    """This rank's device, with TF32 matrix products only where `precision` allows them.

    Composer switches TF32 on for every GPU run unless it is given a device that says otherwise.

    Raises:
        ConfigError: for `amp_bf16` without a GPU.
    """
    if torch.cuda.is_available():
        return DeviceGPU(allow_tf32=precision != "fp32")
    if precision == "amp_bf16":
        raise ConfigError([Problem("precision", "amp_bf16 needs a GPU and none is visible; use fp32")])
    return DeviceCPU()


def insist_on_precision(precision: str) -> None:
    """Again, after the Trainer is built: to look at a sharded model, Composer makes a device that allows TF32."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def require_precision(precision: str) -> None:
    """Assert that nothing switched TF32 back on.

    Raises:
        RuntimeError: if matrix products would run in TF32 although `precision` is fp32.
    """
    if not torch.cuda.is_available() or precision != "fp32":
        return
    if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32:
        raise RuntimeError("precision: fp32, but TF32 was switched on after the device was built")


def say_devices(number: int) -> str:
    """`1 GPU`, `8 GPUs`; on a machine without, `2 processes`."""
    one, many = ("GPU", "GPUs") if torch.cuda.is_available() else ("process", "processes")
    return f"{number:,} {one if number == 1 else many}"


def torch_device() -> torch.device:
    """This rank's device, once `build_device` has chosen it."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def kernel_dtype(precision: str) -> torch.dtype:
    """The dtype that attention kernels see: under autocast, autocast's."""
    return torch.bfloat16 if precision == "amp_bf16" else torch.float32


def capability() -> tuple[int, int]:
    """The GPU's CUDA compute capability; without a GPU, an A100's, which is what kernels are chosen for."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (8, 0)
