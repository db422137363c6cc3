"""Grids of runs: W&B sweep files, and a local engine that works through them."""
