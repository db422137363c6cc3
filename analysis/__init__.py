"""From run records to figures, statistics and verdicts: `python -m analysis RUNS --out report`."""
