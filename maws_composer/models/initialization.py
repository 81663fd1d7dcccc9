"""How parameters start (He et al. 2021, appendix A.1), each by its name and from a generator of its own.

Nothing depends on the order of the walk or on how the parameters are sharded.
"""

import hashlib
import re
from typing import Protocol

import torch
from torch import Tensor, nn

_BLOCK = r"(decoder_)?blocks\.\d+\."
_LINEARS = re.compile(rf"({_BLOCK}(attn\.(qkv|proj)|mlp\.(fc1|fc2))|decoder_embed|decoder_pred)\.(weight|bias)")
_NORMS = re.compile(rf"({_BLOCK}(norm1|norm2|attn\.[qk]_norm)|norm|decoder_norm)\.(weight|bias)")
_PATCH_EMBEDDING = re.compile(r"patch_embed\.proj\.(weight|bias)")
_TOKENS = ("cls_token", "mask_token")


class Initializable(Protocol):
    """A model that can fill each of its parameters by name."""

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None: ...


@torch.no_grad()
def initialize_by_name(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fill a parameter of a ViT or of an MAE decoder in place, position embeddings excepted.

    Args:
        name: as in a released checkpoint: "blocks.3.attn.qkv.weight".
        tensor: the whole parameter, unsharded.
        generator: on the tensor's device.

    Raises:
        ValueError: no rule for this name.
    """
    if name in _TOKENS:
        tensor.normal_(std=0.02, generator=generator)
    elif _NORMS.fullmatch(name):
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    elif _LINEARS.fullmatch(name) or _PATCH_EMBEDDING.fullmatch(name):
        if name.endswith("bias"):
            tensor.zero_()
        else:
            # the patch embedding is a linear layer on flattened patches
            nn.init.xavier_uniform_(tensor.view(tensor.shape[0], -1), generator=generator)
    else:
        raise ValueError(f"no rule says how to initialize parameter {name}")


def parameter_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that only the seed and the parameter's name determine."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter of an unsharded model on the CPU.

    Args:
        model: has `initialize_parameter`.
    """
    for name, parameter in model.named_parameters():
        model.initialize_parameter(name, parameter.data, parameter_generator(seed, name))  # type: ignore[operator]
