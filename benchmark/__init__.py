"""Structured pruning, run for run: measures, nets, data, cuts, training, record."""
