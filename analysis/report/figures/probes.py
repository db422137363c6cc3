"""Cut probes: what small cuts do to the loss along dense training, and how scores rank filters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.quantities import PROBE_LOSS, RANK_CORRELATION
from analysis.report import style
from analysis.report.figures.plot import BAND, COLUMNS, figure, legend, new_canvas, seeds_text
from analysis.report.figures.scale import signed_axis
from analysis.runs.frames import Frames
from analysis.stats import bounded_interval, mean_interval

PAIRS = {
    ("theta_g", "theta_hg"): ("θ·Hg with θ·g", "#1A1A1A", "o"),
    ("loss", "loss_biased"): ("loss with loss_biased", "#D55E00", "^"),
    ("loss", "magnitude"): ("loss with magnitude", "#0072B2", "s"),
    ("loss_biased", "magnitude"): ("loss_biased with magnitude", "#56B4E9", "v"),
    ("grasp_t1", "loss"): ("grasp_t1 with loss", "#6FA83A", "D"),
    ("grad_preservation", "loss"): ("grad_preservation with loss", "#2BB38A", "X"),
}
"""The pairs of scores that are drawn: label, colour and marker."""


CLAIMED = (
    "magnitude", "loss", "loss_biased", "grasp", "grasp_t1", "grad_preservation", "random"
)  # fmt: skip
"""Measures that claims are about."""


def probe_size(frames: Frames) -> str:
    """How many probed runs stand behind each mean, in words."""
    runs = _probed(frames)
    rows = frames.probes[["run_id", "epoch"]].drop_duplicates().merge(runs, on="run_id")
    seeds = rows.groupby(["setting", "epoch"], sort=False)["seed"].nunique()
    seeds.index = pd.Index(_titles(seeds.index), name="panel")
    return seeds_text(seeds, f"{len(runs)} probed runs")


@figure(
    "Change of the loss against the share cut",
    "Change of the probe loss when a share of the filters is removed from a copy of the dense net, "
    "which is not trained afterwards, by the epoch of the dense training (a panel each). "
    "Batch-norm statistics are held. 0 means that the loss is preserved. Where the changes differ "
    "widely, the vertical axis is linear near 0 and logarithmic beyond. Lines are means over seeds "
    f"(for `random`, first averaged over its draws), bands {BAND} (of the measures that claims are "
    "about).",
    size=probe_size,
)
def probe_losses(frames: Frames) -> Figure | None:
    """Change of the loss by share and measure, at each probed epoch."""
    probes = frames.probes.merge(_probed(frames), on="run_id")
    key = f"actual.{PROBE_LOSS.key}"
    if probes.empty or probes[key].isna().all():
        return None
    columns = ["setting", "epoch", "measure", "share", "seed"]
    change = probes.groupby(columns)[key].mean().unstack("seed")
    panels = change.index.droplevel(["measure", "share"]).unique()
    measures = style.in_order(set(probes["measure"]))
    canvas, blocks = new_canvas(_titles(panels), 1, height=2.6, sharex=True)
    means = change.mean(axis=1).to_numpy()
    for panel, (ax,) in zip(panels, blocks, strict=True):
        here = change.loc[panel]
        for measure in here.index.unique("measure"):
            _line(ax, here.loc[measure], style.look(measure).curve(), band=measure in CLAIMED)
        _shares(ax, change.index.unique("share"))
        linear = signed_axis(ax.yaxis, means, ticks=6)
        ax.axhline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set_xlabel("filters removed (%)")
    low, high = min(0.0, np.nanmin(means)), max(0.0, np.nanmax(means))
    below = above = 0.06 * (high - low)
    if linear:
        below, above = 0.3 * -low + linear / 2, max(0.5 * high, linear)
    for (ax,) in blocks[::COLUMNS]:  # the others of a row share its axis
        ax.set_ylim(low - below, high + above)
        ax.set_ylabel(PROBE_LOSS.axis)
    legend(canvas, measures)
    return canvas


@figure(
    "Rank correlations along dense training",
    "Spearman correlation, over all live filters, of pairs of scores at the probed epochs of dense "
    "training, and of the second-order term θ·Hg of each filter with its first-order term θ·g on "
    f"the probe set. Lines are means over seeds, bars {BAND}.",
    size=probe_size,
)
def probe_correlations(frames: Frames) -> Figure | None:
    """Rank correlations of pairs of scores by epoch."""
    ranks = frames.probe_ranks.merge(_probed(frames), on="run_id")
    ranks = ranks[[pair in PAIRS for pair in zip(ranks["a"], ranks["b"], strict=True)]]
    if ranks.empty:
        return None
    table = ranks.groupby(["setting", "a", "b", "epoch", "seed"])["rho"].mean().unstack("seed")
    panels, epochs = table.index.unique("setting"), sorted(ranks["epoch"].unique())
    canvas, blocks = new_canvas(list(panels), 1, height=2.6)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        for number, (pair, (_, color, marker)) in enumerate(PAIRS.items()):
            if (panel, *pair) not in table.index.droplevel("epoch"):
                continue
            rows = table.loc[(panel, *pair)]
            offset = 0.06 * (number - (len(PAIRS) - 1) / 2)  # so that bars can be told apart
            places = np.array([epochs.index(epoch) for epoch in rows.index]) + offset
            _bars(ax, places, rows, color, marker)
        ax.axhline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel="epochs of dense training", ylim=(-1.05, 1.05))
        ax.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
        ax.set_xlim(-0.5, len(epochs) - 0.5)
    for (ax,) in blocks[::COLUMNS]:
        ax.set_ylabel(RANK_CORRELATION.axis)
    drawn = {(a, b) for _, a, b, _ in table.index}
    handles = [
        Line2D([], [], color=color, marker=marker, label=label)
        for pair, (label, color, marker) in PAIRS.items()
        if pair in drawn
    ]
    canvas.legend(handles=handles, loc="outside upper center", ncols=2 + (len(panels) > 1))
    return canvas


def _probed(frames: Frames) -> pd.DataFrame:
    """The runs that have probes: `run_id`, `seed`, and `setting` without the probed epochs, so that
    runs that were probed at other epochs go together."""
    runs = frames.drawn()
    runs = runs[runs["run_id"].isin(frames.probes["run_id"])]
    return runs[["run_id", "seed"]].assign(setting=runs["setting"].map(_setting).astype(str))


def _setting(setting: str) -> str:
    """A dense run's setting without the words that all of them have."""
    found = re.sub(r", probe epochs (\d[\d,]*|none)", "", setting.removeprefix("never cut"))
    return found.removeprefix(", ") or "dense training"


def _titles(panels: Sequence[tuple[str, int]]) -> list[str]:
    """The name of each panel: its epoch, and the setting if there are several."""
    several = len({setting for setting, _ in panels}) > 1
    return [
        f"after {epoch} epoch{'s' * (epoch != 1)}" + f", {setting}" * several
        for setting, epoch in panels
    ]


def _line(ax: Axes, rows: pd.DataFrame, curve: dict, *, band: bool) -> None:
    """The mean over seeds [shares, seeds] and perhaps its band; seeds that lack a share do not
    count."""
    rows = rows.dropna(axis=1)
    if rows.empty:
        return
    shares = 100 * rows.index.to_numpy(dtype=float)
    values = rows.to_numpy().T
    ax.plot(shares, values.mean(axis=0), **curve)
    if band and (interval := mean_interval(values)):
        ax.fill_between(shares, *interval, color=curve["color"], alpha=0.1, linewidth=0)


def _bars(ax: Axes, places: np.ndarray, rows: pd.DataFrame, color: str, marker: str) -> None:
    """Means over the seeds of each place, with bars from band to band."""
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    ax.plot(places, rows.mean(axis=1), color=color, marker=marker, linewidth=1.1, **edge)
    bars = [bounded_interval(row.dropna(), *RANK_CORRELATION.bounds) for _, row in rows.iterrows()]
    ax.vlines(places, *np.transpose(bars), color=color, linewidth=0.8)


def _shares(ax: Axes, shares: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each share."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([100 * share for share in shares]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
