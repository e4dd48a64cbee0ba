"""tinylm: from a list of seeds to a language model you can talk to."""

__version__ = "0.1.0"
