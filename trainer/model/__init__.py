"""The model, its choices, and what it computes."""
