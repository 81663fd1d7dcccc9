"""`python -m benchmarks`: every measurement with its defaults, one after the other."""

import torch

from benchmarks import callbacks, decoding, embeddings, epoch_order, label_loss, labels, reading, start, training_step
from benchmarks.scale import __main__ as scale

if __name__ == "__main__":
    start.main([])
    decoding.main([])
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
