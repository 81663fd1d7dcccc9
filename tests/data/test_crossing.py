"""What a rank gets of a batch that one of its loader processes made."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import torch

from maws_composer.data.crossing import CrossingBatch


def test_small_tensors_cross_as_bytes_and_large_ones_in_shared_memory() -> None:
    image = torch.randint(256, (4, 3, 96, 96), dtype=torch.uint8).share_memory_()
    batch = CrossingBatch(
        image=image,
        id=["a", "b", "c", "d"],
        position=torch.arange(4),
        valid=torch.tensor([True, False, True, True]),
        labels=torch.empty(4, 0, dtype=torch.int64),
        image_embedding=torch.randn(4, 8),
    )
    crossed = pickle.loads(ForkingPickler.dumps(batch))
    assert type(crossed) is dict and list(crossed) == list(batch) and crossed["id"] == batch["id"]
    for name, value in batch.items():
        if name != "id":
            assert torch.equal(crossed[name], value) and crossed[name].dtype == value.dtype
    assert {name for name, value in crossed.items() if name != "id" and value.is_shared()} == {"image"}
    crossed["position"] += 1  # it is memory that may be written to
    crossed["image"][0, 0, 0, 0] += 1
    assert image[0, 0, 0, 0] == crossed["image"][0, 0, 0, 0] and batch["position"][0] == 0
