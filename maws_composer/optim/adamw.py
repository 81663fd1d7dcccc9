"""AdamW, in a kernel that can be told on the device to leave a step out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch.optim import AdamW, Optimizer

from maws_composer.optim.groups import ParamGroups
from maws_composer.registry import register_optimizer

NAME = "adamw"
Beta = Annotated[float, Field(ge=0, lt=1)]


@register_optimizer(NAME)
def adamw(
    groups: ParamGroups,
    /,
    betas: tuple[Beta, Beta] = (0.9, 0.95),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019).

    Args:
        groups: of the parameters.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
    """
    fused = AdamW(groups, betas=betas, eps=eps, fused=True)
    fused.register_load_state_dict_pre_hook(_stay_fused)
    return fused


def _stay_fused(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint says by which kernel its steps were made: on CPUs it once was another."""
    return {**state, "param_groups": [{**group, "fused": True} for group in state["param_groups"]]}
