"""Grids: W&B sweep files (`method: grid`) read as lists of runs."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from benchmark.config import DEFAULTS, RunConfig
from benchmark.errors import UserError, require
from benchmark.measures import MEASURES
from benchmark.options import Options
from benchmark.schedule import schedule

FILE_KEYS = (
    "name",
    "description",
    "project",
    "program",
    "command",
    "method",
    "metric",
    "parameters",
)
MOST_POINTS = 1_000_000
MOST_PARTS = 100_000
"""Values in a sweep file, each counted as often as it is referred to."""
OPTION_FIELDS = ("flow_every", "score_all")
"""Options that say what is recorded; a grid may set them, for all its runs alike."""


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep file, each once."""

    name: str
    points: int
    """Points of the product, of which equal runs are one."""
    blind: list[RunConfig]
    """Runs left out: cut at initialisation by a measure that scores all filters alike there."""
    configs: list[RunConfig]
    settings: dict[str, object]
    """Values of `OPTION_FIELDS`."""

    def options(self, options: Options) -> Options:
        """The command's options with the grid's settings."""
        return replace(options, **self.settings)

    def epochs(self) -> int:
        """Epochs of all runs, each counted alone."""
        return sum(schedule(config).total for config in self.configs)

    @cached_property
    def epochs_to_train(self) -> dict[RunConfig, int]:
        """{dense control: epochs of the runs that share its dense phase, this phase counted
        once}."""
        after: Counter[RunConfig] = Counter()
        longest: dict[RunConfig, int] = {}
        for config in self.configs:
            control, timetable = config.dense(), schedule(config)
            longest[control] = max(longest.get(control, 0), timetable.dense)
            after[control] += timetable.total - timetable.dense
        return {control: dense + after[control] for control, dense in longest.items()}

    def shared_epochs(self) -> int:
        """Epochs that the shared dense phase saves."""
        return self.epochs() - sum(self.epochs_to_train.values())


def load(path: Path) -> Grid:
    """Read a sweep file. Raises `UserError` that names the file, the key and what is allowed.

    Equal runs are one (`none` knows no timing), and so is left out what cannot mean anything:
    `Grid.blind`.
    """
    content = _read(path)
    for key in content:
        if key not in FILE_KEYS:
            raise UserError(f"{path}: unknown key {key!r}; the keys are {', '.join(FILE_KEYS)}")
    if content.get("method") != "grid":
        raise UserError(f"{path}: method must be 'grid', got {content.get('method')!r}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(
            f"{path}: parameters must be a mapping of fields to value or values, got {parameters!r}"
        )
    axes = {name: _values(path, name, entry) for name, entry in parameters.items()}
    settings = {name: _single(path, name, axes.pop(name)) for name in OPTION_FIELDS if name in axes}
    try:
        _check_settings(settings)
        count = math.prod(map(len, axes.values()))
        require(count <= MOST_POINTS, "points of the grid", count, f"at most {MOST_POINTS:,}")
        points = [
            RunConfig(**dict(zip(axes, point, strict=True)))
            for point in itertools.product(*axes.values())
        ]
        for config in {(p.measure, p.arch, p.dataset): p for p in points}.values():
            config.check_components()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    blind, configs = [], []
    for config in dict.fromkeys(point.canonical() for point in points):
        at_init = config.prune_epoch == 0 and config.measure != "none"
        (blind if at_init and not MEASURES[config.measure].at_init else configs).append(config)
    if not configs:
        raise UserError(
            f"{path}: no run is left; {', '.join(sorted({c.measure for c in blind}))} cannot cut at epoch 0"
        )
    return Grid(str(content.get("name", Path(path).stem)), len(points), blind, configs, settings)


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"grid file {path} does not exist") from None
    except OSError as error:
        raise UserError(f"grid file {path} cannot be read ({error.strerror})") from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # of text that is no UTF-8, or of a date that is none
        raise UserError(
            f"grid file {path} is not valid YAML ({' '.join(str(error).split())})"
        ) from None
    except RecursionError:
        raise UserError(f"grid file {path} is nested too deeply") from None
    if not isinstance(content, dict):
        raise UserError(f"grid file {path} must be a mapping, got {type(content).__name__}")
    if _parts(content, {}) > MOST_PARTS:
        raise UserError(
            f"grid file {path} has more than {MOST_PARTS:,} values, aliases counted as often as they are used"
        )
    return content


def _parts(value: object, known: dict[int, int]) -> int:
    """How many values there are in a nested one."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if id(value) not in known:
        known[id(value)] = 0  # an alias of what it is in counts as none
        known[id(value)] = 1 + sum(_parts(part, known) for part in inside)
    return known[id(value)]


def _values(path: Path, name: str, entry: object) -> list:
    if name not in DEFAULTS and name not in OPTION_FIELDS:
        known = ", ".join((*DEFAULTS, *OPTION_FIELDS))
        raise UserError(f"{path}: unknown parameter {name!r}; the parameters are {known}")
    if not isinstance(entry, dict) or set(entry) not in ({"value"}, {"values"}):
        raise UserError(
            f"{path}: parameter {name!r} must have either value or values (none nested), got {entry!r}"
        )
    if "value" in entry:
        return [_number(name, entry["value"])]
    if not isinstance(entry["values"], list) or not entry["values"]:
        raise UserError(
            f"{path}: values of {name!r} must be a list that is not empty, got {entry['values']!r}"
        )
    return [_number(name, value) for value in entry["values"]]


def _number(name: str, value: object) -> object:
    """The number that a text stands for, in a field of numbers: YAML takes 1e-4 for a text, a flag
    does not."""
    kind = type(DEFAULTS.get(name, ""))
    if isinstance(value, str) and kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _check_settings(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        kind = type(getattr(Options, name))
        require(
            type(value) is kind, name, value, {int: "a whole number", bool: "true or false"}[kind]
        )
    Options(**settings)


def _single(path: Path, name: str, values: list) -> object:
    if len(values) != 1:
        raise UserError(f"{path}: parameter {name!r} must have one value, got {values!r}")
    return values[0]
