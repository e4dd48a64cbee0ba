"""Where to look: `tinylm seed`, which brings URLs, and `tinylm read`, which brings pages."""
