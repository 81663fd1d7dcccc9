"""Other people's models, written down from their papers and file layouts: plain functions on a state dict.

Nothing of maws_composer, timm or transformers is used, so that a mistake cannot be made twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Norms near one, everything else near zero; nothing is exactly what it starts as."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    is_norm = [name for name in shapes if "norm" in name and name.endswith("weight")]
    return {name: tensor + 1 if name in is_norm else tensor for name, tensor in state.items()}


def linear_shapes(name: str, to: int, of: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (to, of), f"{name}.bias": (to,)}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        **norm_shapes(f"{name}.norm1", width),
        **linear_shapes(f"{name}.attn.qkv", 3 * width, width),
        **linear_shapes(f"{name}.attn.proj", width, width),
        **norm_shapes(f"{name}.norm2", width),
        **linear_shapes(f"{name}.mlp.fc1", 4 * width, width),
        **linear_shapes(f"{name}.mlp.fc2", width, 4 * width),
    }


def vit_shapes(width: int, depth: int, patch: int, patches: int) -> dict[str, tuple[int, ...]]:
    """timm's names, without a norm at the end."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + patches, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for number in range(depth):
        shapes |= block_shapes(f"blocks.{number}", width)
    return shapes


def mae_state(width: int, depth: int, patch: int, side: int, decoder_width: int, decoder_depth: int) -> State:
    """mae_pretrain_*_full.pth of facebookresearch/mae: models_mae.MaskedAutoencoderViT."""
    shapes = vit_shapes(width, depth, patch, side * side) | norm_shapes("norm", width)
    shapes |= linear_shapes("decoder_embed", decoder_width, width)
    shapes |= {"mask_token": (1, 1, decoder_width), "decoder_pos_embed": (1, 1 + side * side, decoder_width)}
    for number in range(decoder_depth):
        shapes |= block_shapes(f"decoder_blocks.{number}", decoder_width)
    shapes |= norm_shapes("decoder_norm", decoder_width)
    return random_state(shapes | linear_shapes("decoder_pred", 3 * patch**2, decoder_width))


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """Head by head; `hidden` tells which keys nobody may look at."""
    outputs = []
    for head in range(heads):
        mine = slice(head * q.shape[-1] // heads, (head + 1) * q.shape[-1] // heads)
        scores = q[..., mine] @ k[..., mine].transpose(1, 2) / (q.shape[-1] // heads) ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -torch.inf)
        outputs.append(scores.softmax(-1) @ v[..., mine])
    return torch.cat(outputs, -1)


def block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    qkv = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", x))
    x = x + linear(state, f"{name}.attn.proj", attention(*qkv.chunk(3, -1), heads))
    hidden = F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x)))
    return x + linear(state, f"{name}.mlp.fc2", hidden)


def vit_tokens(state: State, images: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """All tokens before the last norm; with `visible` (batch, kept), of the class and these patches."""
    patch = state["patch_embed.proj.weight"].shape[-1]
    pieces = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    patches = pieces.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    if visible is not None:
        patches = torch.stack([row[kept] for row, kept in zip(patches, visible, strict=True)])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).repeat(len(images), 1, 1)
    x = torch.cat([first, patches], 1)
    for number in range(sum(name.startswith("blocks.") and name.endswith("norm1.weight") for name in state)):
        x = block(state, f"blocks.{number}", x, heads)
    return x


def mae_prediction(state: State, images: Tensor, visible: Tensor, heads: int, decoder_heads: int) -> Tensor:
    """What the decoder makes of the visible patches: (batch, patches, values)."""
    seen = linear(state, "decoder_embed", norm(state, "norm", vit_tokens(state, images, heads, visible)))
    rows = []
    for tokens, kept in zip(seen, visible, strict=True):
        patches = state["mask_token"][0].repeat(state["decoder_pos_embed"].shape[1] - 1, 1)
        patches[kept] = tokens[1:]
        rows.append(torch.cat([tokens[:1], patches]))
    x = torch.stack(rows) + state["decoder_pos_embed"]
    for number in range(sum(name.startswith("decoder_blocks.") and name.endswith("norm1.weight") for name in state)):
        x = block(state, f"decoder_blocks.{number}", x, decoder_heads)
    return linear(state, "decoder_pred", norm(state, "decoder_norm", x))[:, 1:]


class TorchtextRoberta(nn.Module):
    """torchtext's RobertaEncoder by its description: embeddings, then torch's post-norm layers.

    Its state has the names of a MAWS-CLIP file below text_encoder.encoder.transformer.
    """

    PAD = 1

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, positions: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.ModuleDict({"embedding": nn.Embedding(positions, width)})
        self.embedding_layer_norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The last hidden state of the first token."""
        real = ids != self.PAD
        places = torch.where(real, real.cumsum(1), 0) + self.PAD
        x = self.token_embedding(ids) + self.positional_embedding["embedding"](places)
        return self.layers(self.embedding_layer_norm(x), src_key_padding_mask=~real)[:, 0]


# What torchtext called the parts of a layer before it took torch's.
OLDER_NAMES = {
    "self_attn.in_proj_weight": "attention.input_projection.weight",
    "self_attn.in_proj_bias": "attention.input_projection.bias",
    "self_attn.out_proj": "attention.output_projection",
    "linear1": "residual_mlp.mlp.0",
    "linear2": "residual_mlp.mlp.3",
    "norm1": "attention_layer_norm",
    "norm2": "final_layer_norm",
}


def as_older(state: State) -> State:
    """The same text tower as torchtext once named it."""
    renamed = {}
    for name, tensor in state.items():
        if ".layers.layers." in name:
            name = name.replace(".layers.layers.", ".layers.")
            name = next(name.replace(f".{new}", f".{old}") for new, old in OLDER_NAMES.items() if f".{new}" in name)
        renamed[name] = tensor
    return renamed


def maws_clip(vit: State, text: TorchtextRoberta, vision_width: int, text_width: int, embed: int) -> State:
    """A MAWS-CLIP checkpoint (FACTS.md 6.4)."""
    projections = {"vision_projection": (vision_width, embed), "text_projection": (text_width, embed)}
    return {
        "logit_scale": torch.tensor(2.6592),
        **random_state(projections, seed=1),
        **{f"vision_encoder.{name}": tensor for name, tensor in vit.items()},
        **{f"text_encoder.encoder.transformer.{name}": tensor for name, tensor in text.state_dict().items()},
    }
