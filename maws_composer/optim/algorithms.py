"""Composer's own algorithms, by Composer's names: the one that keeps a run elastic, and why the others do not.

A run has to be the same on any number of GPUs, wherever it was interrupted, with sharded parameters (DESIGN 3.3). Each
of Composer 0.32.1 was run on a sharded MAE; most of them fail there, or change nothing.
"""

from __future__ import annotations

from typing import Annotated

from composer.algorithms import GradientClipping
from pydantic import AfterValidator, Field

from maws_composer.registry import refuse, register_algorithm

_SURGERY = (
    "it replaces layers when the trainer begins, after the model is sharded, and finds none that it knows: the "
    "training would be the same without it"
)
_BATCH = (
    "it draws from a stateful generator of each rank, so that the curve would depend on the number of GPUs and on "
    "interruptions; data.train.transform gives each sample a generator of its own"
)

for _names, _reason in {
    ("blurpool", "factorize", "ghost_batchnorm", "low_precision_groupnorm", "low_precision_layernorm",
     "squeeze_excite"): _SURGERY,
    ("mixup", "cutmix", "cutout", "colout", "randaugment", "augmix"): _BATCH,
    ("label_smoothing",): "it takes a batch for a pair of images and targets, and the stages have losses of their own",
    ("ema", "swa"): "its averages are no part of a sharded checkpoint; the callback ema is ours",
    ("sam",): "it hides the optimizer that is told to leave a spike's step out (loss_spikes)",
    ("layer_freezing",): "it takes parameters out of the optimizer on the way, which a resumed run would have again",
    ("selective_backprop",): "it drops samples by each rank's own draw, and the global batch would depend on the ranks",
    ("progressive_resizing",): "it makes images smaller than the model's positions are for; set model.image_size",
    ("weight_standardization",): "it needs variances of sharded weights, which DTensor does not have",
    ("stochastic_depth",): "it is for ResNets only, and draws from a stateful generator of each rank",
    ("gyro_dropout",): "its masks are of a fixed batch, and drawn from a stateful generator of each rank",
    ("alibi", "gated_linear_units", "seq_length_warmup"): "it is for language models of Hugging Face only",
    ("channels_last",): "it reorders the patch embedding in memory, which the trunk then cannot read",
    ("no_op_model",): "it takes the model away, for tests of input pipelines; benchmarks/ measure these",
}.items():  # fmt: skip
    for _name in _names:
        refuse("algorithm", _name, _reason)


def _adaptive(clipping_type: str) -> str:
    if clipping_type == "norm":
        raise ValueError("'norm' is gradient_clip, a key of the run")
    if clipping_type == "value":
        raise ValueError("'value' hides infinite gradients from loss_spikes; use adaptive, or gradient_clip")
    if clipping_type != "adaptive":
        raise ValueError(f"expected adaptive, got {clipping_type!r}")
    return clipping_type


@register_algorithm("gradient_clipping")
def gradient_clipping(
    clipping_threshold: Annotated[float, Field(gt=0)],
    clipping_type: Annotated[str, AfterValidator(_adaptive)] = "adaptive",
) -> GradientClipping:
    """Composer's GradientClipping, of its types the adaptive one (Brock et al. 2021).

    Args:
        clipping_threshold: largest norm of a gradient as a share of the norm of its parameter, unit by unit.
        clipping_type: adaptive.
    """
    return GradientClipping(clipping_type, clipping_threshold)
