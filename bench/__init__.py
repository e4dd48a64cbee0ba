"""Figures by commands anyone can run: `python -m bench.NAME [--quick] [--out FILE]`."""
