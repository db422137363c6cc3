"""The leaderboard as a figure."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.leaderboard import Board
from analysis.report import style

HEIGHT = 0.24


def caption(board: Board) -> str:
    """What the figure of a leaderboard shows."""
    ranks = (
        "The mean rank of the final accuracy among these measures, 1 the best, with its 95 % t "
        "interval over seeds."
    )
    profiles = (
        "The right panel has the share of runs whose final accuracy is at least so much of that of "
        "the dense control of the same seed (performance profile; Agarwal et al., NeurIPS 2021); a "
        "line further up and to the right is better."
    )
    return f"{ranks} {profiles}" if board.controlled else ranks


def rank_plot(board: Board) -> Figure:
    """The ranks of a leaderboard, and the performance profile of each measure where its runs have
    dense controls."""
    with matplotlib.rc_context(style.RC):
        table = board.table
        size = (style.FULL_WIDTH * (1 if board.controlled else 0.56), 0.9 + HEIGHT * len(table))
        canvas = Figure(figsize=(size[0], max(size[1], 2.6)), layout="constrained")
        axes = canvas.subplots(1, 2 if board.controlled else 1, squeeze=False)[0]
        _ranks(axes[0], board)
        if board.controlled:
            _profiles(axes[1], board)
        return canvas


def _ranks(ax: Axes, board: Board) -> None:
    for place, row in enumerate(board.table.itertuples()):
        look = style.look(row.measure)
        bar = None if np.isnan(row.rank_low) else [[row.rank - row.rank_low],
                                                   [row.rank_high - row.rank]]  # fmt: skip
        ax.errorbar(row.rank, place, xerr=bar, color=look.color, marker=look.marker, markersize=5)
    names = [style.name(name) for name in board.table["measure"]]
    ax.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), xlabel="mean rank")
    ax.set_yticklabels(names)
    for label, outside in zip(ax.get_yticklabels(), board.table["outside"], strict=True):
        label.set_fontweight("bold" if outside else "normal")
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _profiles(ax: Axes, board: Board) -> None:
    values = board.relative.to_numpy(dtype=float)
    low, high = np.nanquantile(values, 0.02), np.nanmax(values)
    steps = np.linspace(max(0.0, low - 0.02), high + 0.005, 200)
    for measure in board.table["measure"]:
        own = board.relative.loc[measure].dropna().to_numpy()
        if len(own):
            shares = (own[:, None] >= steps).mean(axis=0)
            look = style.look(measure)
            ax.plot(100 * steps, 100 * shares, color=look.color, linestyle=look.line, linewidth=1.2)
    ax.set(xlabel="final accuracy (% of the dense control)", ylabel="runs (%)", ylim=(-3, 103))
