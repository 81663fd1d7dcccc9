"""How a world is divided for sharding."""

from __future__ import annotations


def sharding_degrees(world_size: int, at_most: int | None) -> tuple[int, int]:
    """Split the world into (replicate, shard), `shard` being its largest divisor not above `at_most` (None: all)."""
    limit = min(at_most or world_size, world_size)
    shard = max(degree for degree in range(1, limit + 1) if world_size % degree == 0)
    return world_size // shard, shard
