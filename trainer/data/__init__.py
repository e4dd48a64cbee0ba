"""From documents on disk to batches: sources, order, packing. Imports neither the loop nor the model."""
