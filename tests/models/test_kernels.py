"""The attention kernel is the one asked for, or the reason is said."""

import pytest
import torch

from maws_composer.models.kernels import choose_kernel

FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "line"),
    [
        ("cuda", BF16, 64, "attention: sdpa_flash (auto: fastest that fits)"),
        ("cuda", BF16, 80, "attention: sdpa_flash (auto: fastest that fits)"),
        ("cuda", FP32, 64, "attention: sdpa_efficient (auto: fp32 cannot use flash kernels)"),
        ("cuda", BF16, 320, "attention: sdpa_efficient (auto: head dimension 320 is above 256)"),
        ("cuda", BF16, 36, "attention: math (auto: head dimension 36 is not a multiple of 8)"),
        (
            "cuda",
            FP32,
            36,
            "attention: math (auto: fp32 cannot use flash kernels; head dimension 36 is not a multiple of 8)",
        ),
        ("cpu", FP32, 64, "attention: sdpa (auto: torch's own choice on cpu)"),
        ("cpu", BF16, 36, "attention: sdpa (auto: torch's own choice on cpu)"),
    ],
)
def test_auto_takes_what_fits_and_says_why(device, dtype, head_dim, line):
    assert choose_kernel("auto", device, dtype, head_dim).log_line == line


def test_auto_knows_old_gpus():
    assert choose_kernel("auto", "cuda", torch.float16, 64, capability=(7, 5)).log_line == (
        "attention: sdpa_efficient (auto: compute capability 8.0 is needed, this GPU has 7.5)"
    )
    assert choose_kernel("auto", "cuda", BF16, 64, capability=(7, 0)).name == "math"


@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
@pytest.mark.parametrize("name", ["flash_attn", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "math"])
def test_every_kernel_takes_the_heads_of_our_models_in_half_precision(name, head_dim):
    choice = choose_kernel(name, "cuda", BF16, head_dim)
    assert choice.name == name and choice.why.startswith("asked for")


def test_a_kernel_that_we_have_never_run_is_announced_as_such():
    choice = choose_kernel("flash_attn", "cuda", BF16, 64)
    assert choice.log_line == "attention: flash_attn (asked for; we have never run it)"


@pytest.mark.parametrize(
    ("name", "device", "dtype", "head_dim", "message"),
    [
        ("sdpa_flash", "cuda", FP32, 64, "sdpa_flash cannot run: fp32 cannot use flash kernels; use auto"),
        ("sdpa_cudnn", "cuda", FP32, 64, "sdpa_cudnn cannot run: fp32 cannot use flash kernels; use auto"),
        ("flash_attn", "cuda", FP32, 64, "flash_attn cannot run: fp32 cannot use flash kernels; use auto"),
        ("sdpa_flash", "cuda", BF16, 264, "sdpa_flash cannot run: head dimension 264 is above 256; use auto"),
        ("sdpa_cudnn", "cuda", BF16, 136, "sdpa_cudnn cannot run: head dimension 136 is above 128; use auto"),
        (
            "sdpa_efficient",
            "cuda",
            FP32,
            36,
            "sdpa_efficient cannot run: head dimension 36 is not a multiple of 8; use auto",
        ),
        ("flash_attn", "cuda", BF16, 36, "flash_attn cannot run: head dimension 36 is not a multiple of 8; use auto"),
        ("sdpa_flash", "cpu", BF16, 64, "sdpa_flash runs on CUDA only, this is cpu; use auto or math"),
        ("flash_attn", "cpu", BF16, 64, "flash_attn runs on CUDA only, this is cpu; use auto or math"),
        ("sdpa_efficient", "cpu", FP32, 64, "sdpa_efficient runs on CUDA only, this is cpu; use auto or math"),
        (
            "flash",
            "cuda",
            BF16,
            64,
            "flash is unknown; there are auto, flash_attn, sdpa_flash, sdpa_cudnn, sdpa_efficient, math",
        ),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_the_reason(name, device, dtype, head_dim, message):
    with pytest.raises(ValueError) as error:
        choose_kernel(name, device, dtype, head_dim)
    assert str(error.value) == f"attention kernel {message}"
