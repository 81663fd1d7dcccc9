"""Embeddings of texts: spread over ranks, and averaged to a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from maws_composer.evaluation.extraction import gather_rows
from maws_composer.evaluation.features import Towers
from maws_composer.evaluation.wording import SLOT, Names
from maws_composer.parallel.precision import torch_device
from maws_composer.resilience.progress import progressed

_AT_ONCE = 256  # texts on one rank


@torch.no_grad()
def embed_texts(towers: Towers, texts: Sequence[str], title: str) -> Float[Tensor, "texts embed"]:
    """The embedding of every text, on every rank; each is computed on one of them. A collective.

    Args:
        towers: whose text tower it is.
        texts: the same on every rank, at least one.
        title: of the progress bar.
    """
    world = dist.get_world_size()
    share = -(-len(texts) // world)
    first = dist.get_rank() * share
    own = [texts[min(place, len(texts) - 1)] for place in range(first, first + share)]
    starts = tqdm(range(0, share, _AT_ONCE), desc=title, leave=False, mininterval=2, disable=first > 0)
    parts = []
    for start in starts:
        parts.append(towers.encode_text(own[start : start + _AT_ONCE]))
        progressed(title)
    embedded = torch.cat(parts)
    return gather_rows(embedded.to(torch_device()))[: len(texts)].cpu()


def classifier(
    towers: Towers, names: Names, templates: Sequence[str], title: str, texts_at_once: int = 65_536
) -> Float[Tensor, "classes embed"]:
    """A row of length 1 for each class: the mean, scaled to length 1, of the embeddings, each of length 1, of all its
    names in all templates (Radford et al. 2021, section 3.1.4; FACTS.md 6.3). A collective.

    Args:
        towers: whose text tower it is.
        names: of each class.
        templates: each with SLOT in it.
        title: of the progress bar.
        texts_at_once: sentences whose embeddings are held together; what is kept is one row per class.
    """
    rows: list[Tensor] = []
    for chunk in _chunks(names, max(1, texts_at_once // len(templates))):
        sentences = [template.replace(SLOT, name) for synonyms in chunk for name in synonyms for template in templates]
        done = f"{title}: classes {len(rows) + 1:,} to {len(rows) + len(chunk):,} of {len(names):,}"
        embedded = normalize(embed_texts(towers, sentences, done), dim=1)
        sizes = [len(synonyms) * len(templates) for synonyms in chunk]
        rows += [part.mean(0) for part in embedded.split(sizes)]
    return normalize(torch.stack(rows), dim=1)


def _chunks(names: Names, most: int) -> list[Names]:
    """Successive classes, of at most so many names together, or one alone."""
    chunks: list[list[tuple[str, ...]]] = [[]]
    for synonyms in names:
        if chunks[-1] and sum(map(len, chunks[-1])) + len(synonyms) > most:
            chunks.append([])
        chunks[-1].append(synonyms)
    return [tuple(chunk) for chunk in chunks]
