"""Removing filters: which ones (`select`), by masking (`masked`), and for good (`compact`)."""

from benchmark.pruning.masks import compact, masked
from benchmark.pruning.selection import Keep, select

__all__ = ["Keep", "compact", "masked", "select"]
