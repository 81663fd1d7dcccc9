"""On how many GPUs a run may be started or resumed: the batch stays, and every node plans its own share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def legal_world_sizes(global_batch: int, canonical_nodes: int, gpus_per_node: int | None, up_to: int) -> list[int]:
    """World sizes, ascending, that the global batch can be split over.

    Args:
        global_batch: samples per step; each GPU takes an equal share.
        canonical_nodes: each node takes an equal share of them.
        gpus_per_node: GPUs of a node; a run on several nodes uses all of them. None: one node of any size.
        up_to: the largest world size of interest.
    """

    def fits(gpus: int) -> bool:
        if gpus_per_node is None or gpus <= gpus_per_node:
            return True
        nodes, rest = divmod(gpus, gpus_per_node)
        return rest == 0 and canonical_nodes % nodes == 0

    sizes = range(1, min(up_to, global_batch) + 1)
    return [gpus for gpus in sizes if global_batch % gpus == 0 and fits(gpus)]


def nearest(wanted: int, legal: Sequence[int]) -> str:
    """The legal numbers next below and next above, as "32 or 64"."""
    at = bisect_left(legal, wanted)
    return " or ".join(str(number) for number in legal[max(at - 1, 0) : at + 1])


def say_world_sizes(gpus: Sequence[int], gpus_per_node: int | None, what: str = "GPUs") -> str:
    """The numbers as a person reads them."""
    numbers = ", ".join(map(str, gpus)) or "no number of"
    return f"{numbers} {what}, {gpus_per_node} per node" if gpus_per_node else f"{numbers} {what}"
