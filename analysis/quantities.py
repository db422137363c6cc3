"""The numbers that figures, tables, the page and W&B show: one table of what they are called and
how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ACCURACY = "accuracy"
"""Unit of fractions that are shown in percent, and their differences in percentage points."""


@dataclass(frozen=True)
class Quantity:
    """A number that runs have, and how it is shown."""

    key: str
    """Its column in the frames or in `outcomes.outcomes`; of history and cuts also its key in
    W&B."""
    label: str
    unit: str = ""
    """The unit of the stored values, as claims.json and compare.json have it."""
    log: bool = False
    """Whether its axis is logarithmic, and its mean geometric."""
    low: float = -np.inf
    high: float = np.inf
    """Bounds of the stored values, on linear axes: intervals end there."""
    factor: float = 1
    """What stored values are multiplied by to be shown."""
    absolute: bool = False
    """Whether the size alone is shown, without its sign."""

    @property
    def scale(self) -> float:
        """What a stored value is multiplied by to be shown."""
        return 100 if self.unit == ACCURACY else self.factor

    @property
    def shown_unit(self) -> str:
        """The unit of a value that is shown."""
        return "%" if self.unit == ACCURACY else self.unit

    @property
    def axis(self) -> str:
        """The label with the unit."""
        return f"{self.label} ({self.shown_unit})" if self.shown_unit else self.label

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the values that are shown."""
        return self.scale * self.low, self.scale * self.high

    def averaged(self, values: np.ndarray) -> np.ndarray:
        """Stored values as they are averaged: to be shown, and as log10 on a logarithmic axis (NaN
        for what has none)."""
        values = self.scale * (np.abs(values) if self.absolute else values)
        return np.log10(np.where(values > 0, values, np.nan)) if self.log else values

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values as they are shown, of `averaged` ones or of means and bounds of them."""
        return np.power(10, values) if self.log else np.clip(values, *self.bounds)


TRAINING_LOSS = Quantity("train/loss", "training loss", "nats", log=True)
TEST_LOSS = Quantity("test/loss", "test loss", "nats", log=True)
TRAINING_ACCURACY = Quantity("train/accuracy", "training accuracy", ACCURACY, low=0, high=1)
TEST_ACCURACY = Quantity("test/accuracy", "test accuracy", ACCURACY, low=0, high=1)
GRADIENT_NORM = Quantity("flow/grad_norm", "gradient norm |g|", "nats", log=True)
FIRST_ORDER = Quantity("flow/theta_g", "first-order term θ·g", "nats")
SPEED = Quantity("flow/theta_g", "speed of |θ|²: 2|θ·g|", "nats", log=True, factor=2, absolute=True)
SECOND_ORDER = Quantity("flow/theta_hg", "second-order term θ·Hg", "nats")
NORM = Quantity("flow/weight_norm_sq", "squared parameter norm |θ|²", low=0)
"""Of histories, by epoch."""

CONVERGENCE = (TRAINING_LOSS, TEST_ACCURACY, TEST_LOSS, TRAINING_ACCURACY)
FLOW = (
    GRADIENT_NORM,
    FIRST_ORDER,
    SECOND_ORDER,
    Quantity("flow/g_hg", "g·Hg = -½ d|g|²/dt"),
    NORM,
)
COURSE = (
    Quantity("lr", "learning rate", log=True),
    Quantity("net/filters", "filters"),
    Quantity("time/images_per_second", "images per second"),
)
COSTS = (Quantity("net/params", "parameters", log=True), Quantity("net/macs", "MACs", log=True))

CHANGES = (
    Quantity("loss_change", "change of loss", "nats"),
    Quantity("grad_norm_sq_change", "change of |g|²", "nats²"),
)
"""Predicted and measured at each cut and probe."""
PROBE_LOSS = CHANGES[0]
LOGGED_CUTS = (
    Quantity("cut/loss_change", "change of loss at the cut", "nats"),
    Quantity("cut/kept_macs", "share of the MACs left", low=0, high=1),
)
"""What W&B's charts have of each cut."""

SUMMARISED = (
    Quantity("final_accuracy", "test accuracy", ACCURACY, low=0, high=1),
    Quantity("loss_after_cut", "training loss after the cut", "nats", low=0),
    Quantity("loss_change", "change of loss at the cut", "nats"),
    Quantity("grad_norm_change", "change of log10 |g| at the cut", "decades"),
)
"""Of `outcomes.outcomes`: what tables and comparisons of sources show."""
FINAL_ACCURACY, LOSS_AFTER_CUT, LOSS_CHANGE, GRADIENT_CHANGE = SUMMARISED
EPOCHS_TO_THRESHOLD = Quantity("epochs_to_threshold", "epochs after the last cut", low=0)
RANK_CORRELATION = Quantity("rho", "rank correlation", low=-1, high=1)
DENSITY = Quantity("density", "filters left", "%", low=0, high=100)
"""Of the filters of a conv, after the last cut."""
