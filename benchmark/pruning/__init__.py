"""Removing filters: which ones (`select`), by masking (`masked`), and physically (`compact`)."""

from benchmark.pruning.masks import Keep, Shrunk, compact, masked, shrink
from benchmark.pruning.selection import select

__all__ = ["Keep", "Shrunk", "compact", "masked", "select", "shrink"]
