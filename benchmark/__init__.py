"""Structured pruning, run for run: measures, nets, data, cuts, training, record."""

__version__ = "0.2.0"
