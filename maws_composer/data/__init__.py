"""From shards to batches: order, randomness, decoding, faults."""
