"""A training run: the loop, ranks, checkpoints, metrics."""
