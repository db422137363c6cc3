"""Figures: one function each, from the named frames of one architecture and data set to a
matplotlib Figure.

A panel is a setting (when and how the cut is made), unless its title says otherwise. Lines and
markers are means over seeds, bands and bars their 95 % intervals (`stats.mean_interval`); with one
seed there is none. Runs with an ablation are in no figure. Figures come in the order
in which they are declared: of the modules' names, and of their functions.
"""

from analysis.report.figures import by_epoch, cuts, layers, probes, results
from analysis.report.figures.layers import layer_densities
from analysis.report.figures.plot import FIGURES, Plot, sample_size, save

__all__ = [
    "FIGURES",
    "Plot",
    "cuts",
    "layer_densities",
    "layers",
    "probes",
    "results",
    "sample_size",
    "save",
    "by_epoch",
]
