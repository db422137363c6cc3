"""The timetable of a run: its learning rates and its cuts."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.config import RunConfig


@dataclass(frozen=True)
class Schedule:
    """The timetable of one run. An epoch's number is the number of epochs trained before it."""

    dense: int
    """Epochs of the dense phase, which other runs can share."""
    cuts: tuple[int, ...]
    """Epochs before which the cuts are made."""
    total: int
    """Epochs of the whole run."""
    config: RunConfig

    def lr(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        config = self.config
        if self.cuts and self.cuts[0] <= epoch < self.cuts[-1]:
            return config.lr
        if epoch >= self.dense and config.retrain == "restart":
            epoch -= self.dense
        return step_lr(config.lr, epoch, config.epochs)


def schedule(config: RunConfig) -> Schedule:
    """The timetable of a run."""
    config = config.canonical()
    if config.measure == "none":
        return Schedule(config.epochs, (), config.epochs, config)
    first = int(config.prune_epoch)
    cuts = tuple(range(first, first + config.rounds))
    total = config.epochs + (first if config.retrain == "restart" else 0)
    return Schedule(first, cuts, total, config)


def step_lr(lr: float, epoch: int, epochs: int) -> float:
    """`lr`, divided by 10 from half and by 100 from three quarters of the epochs on."""
    return lr / 10 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs))


def kept_fraction(ratio: float, round: int, rounds: int) -> float:
    """Fraction of the filters left after `round` of `rounds` cuts, n(1-p) / (kp + n(1-p)): the
    first cuts remove more than the last."""
    left = rounds * (1 - ratio)
    return left / (round * ratio + left)
