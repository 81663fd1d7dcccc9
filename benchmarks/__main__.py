"""`python -m benchmarks`: every measurement with its defaults, one after the other."""

import torch

from benchmarks import (
    callbacks,
    decoding,
    embeddings,
    epoch_order,
    label_loss,
    labels,
    loader,
    reading,
    start,
    training_step,
)  # fmt: skip
from benchmarks.scale import __main__ as scale

if __name__ == "__main__":
    start.main([])
    decoding.main([])
    loader.main(["--pictures", "256", "--rounds", "1"])
    epoch_order.main([])
    scale.main([])
    reading.main([])
    labels.main()
    label_loss.main([])
    callbacks.main([])
    if torch.cuda.is_available():
        training_step.main(["--variant", "speed.attention=math", "--variant", "speed.compile=false"])
        embeddings.main([])
    else:
        print("training_step, embeddings: no GPU, and their defaults are recipes for one; name smaller ones")
