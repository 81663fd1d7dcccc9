"""Which attention kernel runs, and why. Choosing is a pure function, so that it can be tested without a GPU."""

from dataclasses import dataclass

import torch

KERNELS = ("auto", "flash_attn", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "math")

_LARGEST_HEAD = {"flash_attn": 256, "sdpa_flash": 256, "sdpa_cudnn": 128}
_HALF_ONLY = ("flash_attn", "sdpa_flash", "sdpa_cudnn")
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Choice:
    """A kernel that can run, and why it was taken.

    Args:
        name: one of KERNELS but `auto`, or `sdpa`: torch's own choice, the only sensible one on a CPU.
        why: half a sentence for the log.
    """

    name: str
    why: str

    @property
    def log_line(self) -> str:
        return f"attention: {self.name} ({self.why})"


def choose_kernel(
    requested: str,
    device_type: str,
    dtype: torch.dtype,
    head_dim: int,
    capability: tuple[int, int] = _AMPERE,
) -> Choice:
    """Choose the attention kernel.

    Args:
        requested: one of KERNELS.
        device_type: "cuda", "cpu", ...
        dtype: of queries, keys and values as the kernel sees them: under autocast that of autocast.
        head_dim: channels of one head.
        capability: CUDA compute capability of the GPU; (8, 0) is an A100.

    Raises:
        ValueError: the kernel asked for cannot run here. `auto` never raises.
    """
    if requested not in KERNELS:
        raise ValueError(f"attention kernel {requested} is unknown; there are {', '.join(KERNELS)}")
    if device_type != "cuda":
        return _choose_without_cuda(requested, device_type)
    if requested == "auto":
        return _choose_automatically(dtype, head_dim, capability)
    obstacle = _obstacle(requested, dtype, head_dim, capability)
    if obstacle:
        raise ValueError(f"attention kernel {requested} cannot run: {obstacle}; use auto")
    return Choice(requested, "asked for; we have never run it" if requested == "flash_attn" else "asked for")


def _choose_without_cuda(requested: str, device_type: str) -> Choice:
    if requested == "auto":
        return Choice("sdpa", f"auto: torch's own choice on {device_type}")
    if requested == "math":
        return Choice("math", "asked for")
    raise ValueError(f"attention kernel {requested} runs on CUDA only, this is {device_type}; use auto or math")


def _choose_automatically(dtype: torch.dtype, head_dim: int, capability: tuple[int, int]) -> Choice:
    # flash_attn is not among the candidates: we have never run it
    obstacles: list[str] = []
    for name in ("sdpa_flash", "sdpa_efficient"):
        obstacle = _obstacle(name, dtype, head_dim, capability)
        if obstacle is None:
            return Choice(name, f"auto: {'; '.join(obstacles) or 'fastest that fits'}")
        obstacles.append(obstacle)
    return Choice("math", f"auto: {'; '.join(dict.fromkeys(obstacles))}")


def _obstacle(name: str, dtype: torch.dtype, head_dim: int, capability: tuple[int, int]) -> str | None:
    """What keeps a kernel from running on a GPU; None if nothing does."""
    if name == "math":
        return None
    if dtype == torch.float64:
        return "fp64 can use the math kernel only"
    if name in _HALF_ONLY and dtype == torch.float32:
        return "fp32 cannot use flash kernels"
    if capability < _AMPERE and (name in _HALF_ONLY or dtype == torch.bfloat16):
        return f"compute capability 8.0 is needed, this GPU has {capability[0]}.{capability[1]}"
    if head_dim % 8:
        return f"head dimension {head_dim} is not a multiple of 8"
    if head_dim > _LARGEST_HEAD.get(name, head_dim):
        return f"head dimension {head_dim} is above {_LARGEST_HEAD[name]}"
    return None
