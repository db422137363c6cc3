"""Rank correlations over filters, between measures.

The live filters of all prunable layers are ranked together, as in a cut. A correlation that is not
defined (fewer than three filters, equal or non-finite numbers) is left out.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from benchmark.measures._scoring import Scores
from benchmark.models import Net


def agreement(scores: dict[str, Scores], model: Net) -> dict[str, float]:
    """{"a|b": Spearman correlation} for each pair of measures a < b, over the live filters of
    `model`."""
    return correlations(_columns(scores, model))


def correlations(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """{"a|b": Spearman correlation} of all pairs of named arrays [n] that vary and are finite."""
    used = {
        name: x
        for name, x in sorted(columns.items())
        if len(x) > 2 and np.isfinite(x).all() and np.ptp(x) > 0
    }
    if len(used) < 2:
        return {}
    table = np.corrcoef([_ranks(x) for x in used.values()])
    pairs = combinations(range(len(used)), 2)
    names = list(used)
    return {f"{names[i]}|{names[j]}": float(table[i, j]) for i, j in pairs}


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties get their mean rank. The same as `scipy.stats.rankdata`, whose import
    takes half as long as torch's."""
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def _columns(scores: dict[str, Scores], model: Net) -> dict[str, np.ndarray]:
    """One array per measure: its scores of the live filters of all prunable convs."""
    live = {name: model.mask(name) for name, conv in model.convs.items() if conv.prunable}
    columns = {
        measure: torch.cat([layers[name][mask] for name, mask in live.items()])
        for measure, layers in scores.items()
    }
    return {measure: column.cpu().double().numpy() for measure, column in columns.items()}
