"""`python -m benchmarks`: every measurement with its defaults, one after the other."""

import torch

from benchmarks import (
    callbacks,
    checkpoints,
    decoding,
    embeddings,
    epoch_order,
    label_loss,
    labels,
    loader,
    peer_step,
    reading,
    sharding,
    start,
    training_step,
    visible_patches,
)
from benchmarks.scale import __main__ as scale

if __name__ == "__main__":
    start.main([])
    decoding.main([])
    loader.main(["--pictures", "256", "--rounds", "1"])
    epoch_order.main([])
    scale.main([])
    reading.main([])
    labels.main([])
    label_loss.main([])
    callbacks.main([])
    visible_patches.main([])
    peer_step.main([])
    sharding.main([])
    checkpoints.main([])
    if torch.cuda.is_available():
        training_step.main(["--variant", "speed.attention=math", "--variant", "speed.compile=false"])
        embeddings.main([])
    else:
        print("training_step, embeddings: no GPU, and their defaults are recipes for one; name smaller ones")
