"""What a run costs and where it fits, from the configuration that the training reads."""
