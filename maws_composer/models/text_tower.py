"""Text towers: encoders of transformers, XLM-R above all, built from a configuration without their weights."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from maws_composer.models.sizes import TextSize

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PretrainedConfig, PreTrainedModel

# Known here, so that planning a run needs no network (the numbers of their config.json).
KNOWN_TEXT_TOWERS: dict[str, TextSize] = {
    "FacebookAI/xlm-roberta-base": TextSize(width=768, depth=12, heads=12, vocabulary=250_002, positions=514),
    "FacebookAI/xlm-roberta-large": TextSize(width=1024, depth=24, heads=16, vocabulary=250_002, positions=514),
}

_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
_CAUSAL = {"clip_text_model"}  # besides language models
_TAKES_MASKS_OF_QUERIES = {"bert", "camembert", "roberta", "xlm-roberta", "xlm-roberta-xl"}


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Which text encoder, and how long its texts are.

    Args:
        name: of a registered text tower; or of a model on Hugging Face, or a local folder: configuration, weights and
            tokenizer.
        arguments: of a registered text tower.
        pretrained: begin with its weights; with random ones otherwise.
        context_length: tokens of a text, the two special ones included; texts are always filled up to it.
        dropout: in attention and between layers. With it, results depend on microbatches and GPUs.
    """

    name: str = "FacebookAI/xlm-roberta-base"
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    context_length: Annotated[int, Field(gt=2)] = 102
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def text_config(settings: TextSettings) -> PretrainedConfig:
    """The encoder's configuration; asks the network for those only that are neither known nor local.

    Raises:
        ValueError: it cannot be read, is no text encoder alone, or its positions do not suffice.
    """
    from transformers import AutoConfig, XLMRobertaConfig

    known = KNOWN_TEXT_TOWERS.get(settings.name)
    if known is not None:
        config: PretrainedConfig = XLMRobertaConfig(
            vocab_size=known.vocabulary,
            hidden_size=known.width,
            num_hidden_layers=known.depth,
            num_attention_heads=known.heads,
            intermediate_size=4 * known.width,
            max_position_embeddings=known.positions,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    else:
        try:
            config = AutoConfig.from_pretrained(settings.name)
        except (OSError, ValueError) as error:
            raise ValueError(f"text.name: {settings.name} has no readable configuration: {error}") from error
    if reason := _why_no_encoder(config):
        raise ValueError(f"text.name: {settings.name} is {reason}; name an encoder such as XLM-R")
    longest = _longest_text(config)
    if settings.context_length > longest:
        raise ValueError(
            f"text.context_length: {settings.name} has positions for {longest} tokens, not {settings.context_length}"
        )
    for key, value in config.to_dict().items():
        if "dropout" in key and isinstance(value, float):
            setattr(config, key, settings.dropout)
    return config


def text_size(settings: TextSettings) -> TextSize:
    """The encoder's shape. Raises ValueError: see `text_config`."""
    if settings.name in KNOWN_TEXT_TOWERS and settings.context_length <= 512:
        return KNOWN_TEXT_TOWERS[settings.name]
    config = text_config(settings)
    return TextSize(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        token_types=getattr(config, "type_vocab_size", 1),
    )


def read_text_weights(settings: TextSettings) -> dict[str, Tensor]:
    """The pretrained encoder's weights, whole, in fp32 on the CPU, by the names of `build_text_tower`'s parameters.

    From safetensors, or from a pickle of nothing but tensors.

    Raises:
        ValueError: they cannot be read, or some of the encoder's are not among them.
    """
    from transformers import AutoModel

    config = text_config(settings)
    try:
        tower, about = AutoModel.from_pretrained(
            settings.name,
            config=config,
            torch_dtype=torch.float32,
            output_loading_info=True,
            weights_only=True,
            trust_remote_code=False,
            **_without_pooler(config),
        )
    except Exception as error:  # transformers raises whatever its parsing, or its network, stumbles over
        raise ValueError(f"the weights of {settings.name} cannot be read: {error}") from error
    if missing := sorted(about["missing_keys"]):
        raise ValueError(f"{settings.name} lacks {len(missing)} of the encoder's tensors: {', '.join(missing[:6])}")
    return dict(tower.named_parameters())


def build_text_tower(settings: TextSettings) -> PreTrainedModel:
    """The encoder, without pooler, on the current device; on meta, its buffers are real ones on the CPU.

    Raises:
        ValueError: see `text_config`; or its buffers are none that can be computed here.
    """
    with torch.device("cpu"):  # this imports the model's module, too, which may not survive it on meta
        from transformers import AutoModel

        config = text_config(settings)
        options = _without_pooler(config)
    tower: PreTrainedModel = AutoModel.from_config(config, **options)
    _compute_buffers(tower, settings.name)
    text_layers(tower)  # or it cannot be sharded: said now
    return tower


def text_width(tower: Any) -> int:
    """Of a text's embedding; a user's own tower says it itself."""
    width: int = tower.width if hasattr(tower, "width") else tower.config.hidden_size
    return width


def text_embedding(tower: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "batch width"]:
    """What a user's own tower makes of texts; of one of transformers', the last hidden state of the first token."""
    made = tower(input_ids=input_ids, attention_mask=mask_for(tower, attention_mask))
    embedding: Tensor = made if isinstance(made, Tensor) else made.last_hidden_state[:, 0]
    return embedding


def mask_for(
    tower: nn.Module, attention_mask: Int[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"] | Int[Tensor, "batch 1 tokens"]:
    """The mask in the form in which the tower takes it as it is, where it has one.

    Of one without queries, BERT and its like first ask whether all of it is 1, and leave it out then: the CPU waits for
    the GPU, and compiled blocks are compiled again.
    """
    kind = getattr(getattr(tower, "config", None), "model_type", None)
    return attention_mask.unsqueeze(1) if kind in _TAKES_MASKS_OF_QUERIES else attention_mask


def text_layers(tower: Any) -> list[nn.Module]:
    """The repeated blocks in the order of the forward pass.

    Raises:
        ValueError: there is no list of as many modules as the configuration has layers.
    """
    if hasattr(tower, "blocks"):  # a user's own
        return [*tower.blocks()]
    depth = tower.config.num_hidden_layers
    for module in tower.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return [*module]
    raise ValueError(
        f"text.name: {type(tower).__name__} has no list of {depth} layers, which could be sharded one by one; name an "
        "encoder such as XLM-R"
    )


@torch.no_grad()
def initialize_text_parameter(tower: Any, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fill the whole (unsharded) parameter in place as transformers does: matrices normal, padding rows zero.

    Args:
        tower: it has the parameter; a user's own may know better.
        name: of the parameter in the tower.
        tensor: what is filled.
        generator: on the tensor's device.
    """
    if hasattr(tower, "initialize_parameter"):
        tower.initialize_parameter(name, tensor, generator)
        return
    owner, kind = name.rpartition(".")[::2]
    if tensor.ndim > 1:
        deviation = getattr(getattr(tower, "config", None), "initializer_range", 0.02)
        tensor.normal_(std=deviation, generator=generator)
        padding = getattr(tower.get_submodule(owner), "padding_idx", None)
        if padding is not None:
            tensor[padding].zero_()
    else:
        tensor.fill_(1.0 if kind == "weight" else 0.0)


def _why_no_encoder(config: PretrainedConfig) -> str | None:
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    if config.is_encoder_decoder:
        return "an encoder with a decoder"
    if missing := [name for name in _SHAPE if not hasattr(config, name)]:
        return f"of type {kind}, which is no text encoder alone: its configuration has no {missing[0]}"
    predicts_next, predicts_hidden = (
        kind in getattr(modeling_auto, f"MODEL_FOR_{task}_LM_MAPPING_NAMES") for task in ("CAUSAL", "MASKED")
    )
    if config.is_decoder or kind in _CAUSAL or (predicts_next and not predicts_hidden):
        return f"of type {kind}, in which the first token, whose state is the text's, sees none of those after it"
    return None


def _without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    from transformers import AutoModel

    kind: Any = AutoModel._model_mapping[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def _longest_text(config: PretrainedConfig) -> int:
    # RoBERTa's positions begin after the padding's index
    reserved = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    return config.max_position_embeddings - reserved


def _compute_buffers(tower: PreTrainedModel, name: str) -> None:
    compute: dict[str, Any] = {
        "position_ids": lambda shape: torch.arange(shape[-1], device="cpu").expand(shape),
        "token_type_ids": lambda shape: torch.zeros(shape, dtype=torch.long, device="cpu"),
    }
    for path, buffer in [*tower.named_buffers()]:
        owner, kind = path.rpartition(".")[::2]
        if not buffer.is_meta:
            continue
        if kind not in compute:
            raise ValueError(f"text.name: {name} has a buffer {path}, which does not survive the meta device")
        setattr(tower.get_submodule(owner), kind, compute[kind](buffer.shape))
