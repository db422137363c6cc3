"""How figures look: one colour, marker and line per measure everywhere, and sizes for a two-column
paper.

Families are recognisable by hue (order 0 blue, 1 orange, 2 green, truth purple, controls grey) and
their members by lightness, marker and dashes, so that figures survive colour blindness and grey
print. The hues are those of Okabe & Ito (2008). A measure that is not listed gets the hue of its
order and a marker of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from colorsys import hls_to_rgb, rgb_to_hls
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from benchmark.measures import MEASURES

FULL_WIDTH = 7.0
"""Inches over both columns of a paper."""
DARK_PAGE = "#1d1f22"
"""The colour of the page in its dark scheme."""

RC = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "svg.fonttype": "path",
    "svg.hashsalt": "flowprune",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titley": 1.0,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.bottom": False,
    "ytick.left": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
}
"""Settings of matplotlib for every figure."""


@dataclass(frozen=True)
class Look:
    """How a measure is drawn."""

    color: str
    marker: str
    line: str | tuple = "-"

    def curve(self) -> dict:
        """Keywords for a line with markers."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, **edge}


DASHED, DOTTED, DASH_DOT = (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5))

LOOKS = {
    "magnitude": Look("#0072B2", "o"),
    "l1": Look("#56B4E9", "s", DASHED),
    "bn_scale": Look("#08306B", "H", DOTTED),
    "synflow": Look("#7A8FD0", "P", DASH_DOT),
    "fpgm": Look("#3E6FA3", "v", DASHED),
    "lamp": Look("#1F4E79", "p", DASH_DOT),
    "whc": Look("#5B8FC9", "<", DOTTED),
    "gibbs": Look("#9DB4D6", "8", DASHED),
    "loss": Look("#D55E00", "^"),
    "taylor": Look("#F0A030", "v", DASHED),
    "loss_biased": Look("#8C3800", "<", DOTTED),
    "loss_biased_init": Look("#B88256", ">", DASH_DOT),
    "grad_accumulation": Look("#C75B39", "H", DASH_DOT),
    "fisher": Look("#E8B800", "p", DASHED),
    "fisher_bn": Look("#9A7B00", "h", DOTTED),
    "taylor_gate": Look("#B5651D", "p", DASHED),
    "taylor_activation": Look("#E8925A", "8", DOTTED),
    "grad_preservation": Look("#2BB38A", "X"),
    "grasp": Look("#00543D", "D", DASHED),
    "grasp_t1": Look("#6FA83A", "*", DOTTED),
    "obd": Look("#2E7D6B", "8", DASHED),
    "activation_mean": Look("#8A7A1F", "H", DASHED),
    "apoz": Look("#B5A642", "d", DOTTED),
    "hrank": Look("#6B5B00", "p", DASH_DOT),
    "chip": Look("#C9B458", ">", DASHED),
    "oracle": Look("#CC79A7", "d"),
    "random": Look("#8C8C8C", "P", DOTTED),
    "none": Look("#1A1A1A", "", (0, (6, 2))),
}
FAMILIES = {0: "#3E6FA3", 1: "#C9732B", 2: "#3B8F5A", "activation": "#8A7A1F", "truth": "#A56BA0",
            "control": "#6E6E6E"}  # fmt: skip
"""Colour of a measure that has no look of its own, by order."""
SPARE_MARKERS = "Hd8ph"
ORDER = tuple(LOOKS)


def look(measure: str) -> Look:
    """The look of a measure, the same in every figure."""
    if measure in LOOKS:
        return LOOKS[measure]
    order = MEASURES[measure].order if measure in MEASURES else "control"
    return Look(
        FAMILIES[order], SPARE_MARKERS[zlib.crc32(measure.encode()) % len(SPARE_MARKERS)], DASHED
    )


CROSS = {"color": LOOKS["none"].color, "marker": "x", "s": 25, "linewidth": 1.5}
"""Keywords of matplotlib for the dense control as a single point."""


def looks(measures: Sequence[str]) -> dict:
    """Keywords of seaborn for measures in this order."""
    found = {measure: look(measure) for measure in measures}
    return {
        "hue_order": measures,
        "palette": {measure: one.color for measure, one in found.items()},
        "markers": [one.marker for one in found.values()],
    }


def points(measures: Sequence[str]) -> dict:
    """Keywords of `seaborn.scatterplot` for a marker per measure, without the dense control."""
    keywords = looks([measure for measure in measures if measure != "none"])
    markers = dict(zip(keywords["hue_order"], keywords["markers"], strict=True))
    own = {"hue": "measure", "style": "measure", "style_order": keywords["hue_order"]}
    return keywords | own | {"markers": markers, "s": 25, "linewidth": 0.4, "legend": False}


def on_dark(color: str) -> str:
    """The colour for a dark page: lightened until its contrast is that on a white page, and at
    least 4.5 to 1."""
    hue, light, saturation = rgb_to_hls(*to_rgb(color))
    wanted = max(contrast(color, "white"), 4.5)
    lighter = (to_hex(hls_to_rgb(hue, level, saturation)) for level in np.linspace(light, 1, 101))
    return next((shade for shade in lighter if contrast(shade, DARK_PAGE) >= wanted), "#ffffff")


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21. Source: WCAG 2.2, relative luminance."""
    lights = []
    for color in (one, other):
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return max(lights) / min(lights)


def name(measure: str) -> str:
    """The name of a measure wherever a reader sees it: as it is written in code."""
    return "none (dense)" if measure == "none" else measure


def in_order(measures: set[str] | list[str]) -> list[str]:
    """Measures in the order of legends: by family, the dense control last, unknown ones by name
    after their peers."""
    families = list(FAMILIES)

    def key(measure: str) -> tuple:
        order = MEASURES[measure].order if measure in MEASURES else "control"
        place = ORDER.index(measure) if measure in ORDER else len(ORDER)
        return measure == "none", families.index(order), place, measure

    return sorted(measures, key=key)
