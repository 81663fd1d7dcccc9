"""`python -m benchmarks`: every measurement with its defaults, one after the other."""

import torch

from benchmarks import epoch_order, label_loss, labels, training_step

if __name__ == "__main__":
    epoch_order.main([])
    labels.main()
    label_loss.main([])
    if torch.cuda.is_available():
        training_step.main(["--variant", "speed.attention=math", "--variant", "speed.compile=false"])
    else:
        print("benchmarks.training_step: no GPU, and its default is a recipe for one; name a smaller recipe")
