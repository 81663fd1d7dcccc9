"""A text tower of the user's own, as a user writes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maws_composer.registry import register_text_tower


@register_text_tower("my_bytes")
class Bytes(nn.Module):
    """Layers of a transformer over the bytes of a text, and the mean of what comes out."""

    vocabulary = 257

    def __init__(self, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(self.vocabulary, width, padding_idx=0)
        layers = (nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True) for _ in range(depth))
        self.layers = nn.ModuleList(layers)

    def tokenize(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    def blocks(self) -> list[nn.Module]:
        return [*self.layers]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.embedding(input_ids) + torch.cos(places)[:, None]
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=attention_mask == 0)
        return (hidden * attention_mask.unsqueeze(2)).sum(1) / attention_mask.sum(1, keepdim=True)
