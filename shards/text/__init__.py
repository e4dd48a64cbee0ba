"""What is measured of a text, which rules it passes, and what counts as new."""
