"""`python -m benchmarks`: every measurement, one after the other."""

from benchmarks import epoch_order, labels

if __name__ == "__main__":
    epoch_order.main()
    labels.main()
