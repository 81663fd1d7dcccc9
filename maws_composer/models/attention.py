"""The transformer block, with self-attention whose kernel is chosen by name."""

import importlib.util
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from maws_composer.models.kernels import Choice, choose_kernel

LAYER_NORM_EPS = 1e-6

_BACKENDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of timm's (qkv, q_norm, k_norm, proj).

    Args:
        width: channels of a token.
        heads: number of heads.
        qk_norm: LayerNorm over each head's queries and keys (Dehghani et al. 2023), against diverging logits.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.kernel = "sdpa"
        self.choice: Choice | None = None  # how the kernel was chosen, once it was
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(self.head_dim, eps=LAYER_NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim, eps=LAYER_NORM_EPS) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], wanted: Int[Tensor, "batch some"] | None = None
    ) -> Float[Tensor, "batch tokens width"] | Float[Tensor, "batch some width"]:
        batch, count, width = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, self.head_dim).unbind(2)
        if wanted is not None:
            q = chosen(q, wanted)
        # autocast runs LayerNorm in fp32, the kernels want one dtype
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return self.proj(attend(q, k, v, self.kernel).reshape(batch, -1, width))


def chosen(
    tokens: Float[Tensor, "batch tokens ..."], which: Int[Tensor, "batch some"]
) -> Float[Tensor, "batch some ..."]:
    """Some of the tokens of each image, by their indices."""
    index = which.view(*which.shape, *[1] * (tokens.ndim - 2)).expand(-1, -1, *tokens.shape[2:])
    return tokens.gather(1, index)


def attend(
    q: Float[Tensor, "batch queries heads channels"],
    k: Float[Tensor, "batch tokens heads channels"],
    v: Float[Tensor, "batch tokens heads channels"],
    kernel: str,
) -> Float[Tensor, "batch queries heads channels"]:
    """Softmax attention by the named kernel (`sdpa`: whichever torch likes best). Views in, a view out, no copies."""
    if kernel == "flash_attn":
        from flash_attn import flash_attn_func  # no wheel on PyPI, so an extra

        return flash_attn_func(q, k, v)
    with _only(kernel):
        return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _only(kernel: str) -> AbstractContextManager:
    return nullcontext() if kernel == "sdpa" else sdpa_kernel(_BACKENDS[kernel])


class Block(nn.Module):
    """Pre-norm transformer block with the parameter names of timm's (norm1, attn, norm2, mlp)."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class FinalBlock(Block):
    """The last of some blocks where only some tokens are wanted of it; they look at all."""

    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "batch tokens width"], wanted: Int[Tensor, "batch some"]
    ) -> Float[Tensor, "batch some width"]:
        tokens = chosen(tokens, wanted) + self.attn(self.norm1(tokens), wanted)
        return tokens + self.mlp(self.norm2(tokens))


def set_attention_kernel(
    model: nn.Module,
    requested: str,
    device_type: str,
    dtype: torch.dtype,
    capability: tuple[int, int] = (8, 0),
) -> list[Choice]:
    """Give every attention in the model its kernel; call it once, before compiling.

    Encoder and decoder have heads of different widths, so that `auto` may choose differently for them.

    Args:
        requested, device_type, dtype, capability: as for `choose_kernel`.

    Returns:
        The distinct choices.

    Raises:
        ValueError: the kernel cannot run here, or `flash_attn` is not installed.
    """
    if requested == "flash_attn" and device_type == "cuda" and importlib.util.find_spec("flash_attn") is None:
        raise ValueError(
            "attention kernel flash_attn needs the package flash-attn, which is not installed: "
            "pip install 'maws_composer[flash-attn]', or use auto"
        )
    for module in model.modules():
        if isinstance(module, Attention):
            module.choice = choose_kernel(requested, device_type, dtype, module.head_dim, capability)
            module.kernel = module.choice.name
    return chosen_kernels(model)


def chosen_kernels(model: nn.Module) -> list[Choice]:
    """What `set_attention_kernel` chose: the distinct choices, whose `log_line`s belong in the log."""
    chosen = [module.choice for module in model.modules() if isinstance(module, Attention)]
    return list(dict.fromkeys(choice for choice in chosen if choice is not None))
