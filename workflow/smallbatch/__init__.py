"""Grids of batch size against base learning rate, trained in lanes and judged from the data."""

__version__ = "0.2.0"
