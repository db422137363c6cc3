"""Grids: W&B sweep files (`method: grid`) read as lists of runs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from benchmark import initial
from benchmark.config import DEFAULTS, RunConfig
from benchmark.errors import UserError, one_line, require
from benchmark.fields import field_value
from benchmark.options import Options
from benchmark.outside import NOUNS
from benchmark.registry import load_measure, resolve
from benchmark.schedule import schedule

FILE_KEYS = (
    "name", "description", "project", "program", "command", "method", "metric", "parameters",
)  # fmt: skip
MOST_POINTS = 1_000_000
MOST_PARTS = 100_000
"""Values in a sweep file, each counted as often as an alias repeats it."""
OPTION_FIELDS = ("flow_every", "score_all", "keep_model")
"""Options that decide what is recorded; a grid may set them for all its runs."""


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep file, each once."""

    name: str
    points: int
    """Points of the product; several may be the same run."""
    blind: list[RunConfig]
    """Runs left out, because their measure scores all filters alike at initialisation."""
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
        """{dense control: epochs of all runs that share it; a dense phase counts once}."""
        epochs: Counter[RunConfig] = Counter()
        longest: dict[tuple[RunConfig, str], int] = {}
        for config in self.configs:
            timetable, phase = schedule(config), (config.dense(), config.phase)
            longest[phase] = max(longest.get(phase, 0), timetable.dense)
            epochs[config.dense()] += timetable.total - timetable.dense
        for (control, _), dense in longest.items():
            epochs[control] += dense
        return dict(epochs)

    def shared_epochs(self) -> int:
        """Epochs that the shared dense phase saves."""
        return self.epochs() - sum(self.epochs_to_train.values())


def shipped() -> dict[str, Path]:
    """{name: file} of the grids that are part of the suite, sorted."""
    files = {file.stem: file for file in Path(__file__).parent.glob("*.yaml")}
    return dict(sorted(files.items()))


def load(path: Path) -> Grid:
    """Read a sweep file; a name such as `demo` is one of `shipped`.

    Points that mean the same run are one run (`none` has no timing). Files of components and
    weights are looked for in the working folder, then beside the sweep file. Raises `UserError`
    that names the file, the key and what is allowed.
    """
    path = shipped().get(str(path), Path(path))
    content = _read(path)
    try:
        return _grid(str(content.get("name", path.stem)), content, path.parent)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _grid(name: str, content: dict, folder: Path) -> Grid:
    for key in content:
        if key not in FILE_KEYS:
            raise UserError(f"unknown key {key!r}; the keys are {', '.join(FILE_KEYS)}")
    require(content.get("method") == "grid", "method", content.get("method"), "'grid'")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        allowed = "a mapping of fields to value or values"
        raise UserError(f"parameters must be {allowed}, got {parameters!r}")
    axes = {field: _values(field, entry) for field, entry in parameters.items()}
    for kind, field in NOUNS.items():
        axes |= {field: [_named(kind, v, folder) for v in axes[field]]} if field in axes else {}
    if "init" in axes:
        files = (Path(), folder)
        axes["init"] = [
            initial.resolve(v, files) if isinstance(v, str) else v for v in axes["init"]
        ]
    settings = {field: _setting(field, axes.pop(field)) for field in OPTION_FIELDS if field in axes}
    Options(**settings)  # checks them
    count = math.prod(map(len, axes.values()))
    require(count <= MOST_POINTS, "points of the grid", count, f"at most {MOST_POINTS:,}")
    points = [
        RunConfig(**dict(zip(axes, point, strict=True)))
        for point in itertools.product(*axes.values())
    ]
    for config in {(p.measure, p.arch, p.dataset, p.protocol): p for p in points}.values():
        config.check_components()
    blind, configs = [], []
    for config in dict.fromkeys(point.canonical() for point in points):
        (blind if _is_blind(config) else configs).append(config)
    if not configs:
        measures = ", ".join(sorted({config.measure for config in blind}))
        raise UserError(f"no run is left; {measures} cannot cut at epoch 0")
    return Grid(name, len(points), blind, configs, settings)


def _is_blind(config: RunConfig) -> bool:
    """Whether all filters score alike at the first cut; those of given weights differ, but not in
    how far they have moved."""
    if config.measure == "none" or config.prune_epoch != 0:
        return False
    measure = load_measure(config.measure)
    return not measure.at_init and (not config.init or "initial" in measure.needs)


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = "" if path.suffix else f"; the grids of the suite are {', '.join(shipped())}"
        raise UserError(f"grid file {path} does not exist{known}") from None
    except OSError as error:
        raise UserError(f"grid file {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or no such date
        raise UserError(f"grid file {path} is not valid YAML ({one_line(error)})") from None
    except RecursionError:
        raise UserError(f"grid file {path} is nested too deeply") from None
    if not isinstance(content, dict):
        raise UserError(f"grid file {path} must be a mapping, got {type(content).__name__}")
    if _parts(content, {}) > MOST_PARTS:
        raise UserError(
            f"grid file {path} has more than {MOST_PARTS:,} values, where an alias counts as often "
            "as it is used"
        )
    return content


def _parts(value: object, known: dict[int, int]) -> int:
    """The number of values in a nested one; `known`: that of each value, by its `id`."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if id(value) not in known:
        known[id(value)] = 0  # an alias to the value that contains it counts as none
        known[id(value)] = 1 + sum(_parts(part, known) for part in inside)
    return known[id(value)]


def _values(name: str, entry: object) -> list:
    if name not in DEFAULTS and name not in OPTION_FIELDS:
        known = ", ".join((*DEFAULTS, *OPTION_FIELDS))
        raise UserError(f"unknown parameter {name!r}; the parameters are {known}")
    if not isinstance(entry, dict) or set(entry) not in ({"value"}, {"values"}):
        allowed = "either value or values (none nested)"
        raise UserError(f"parameter {name!r} must have {allowed}, got {entry!r}")
    values = [entry["value"]] if "value" in entry else entry["values"]
    if not isinstance(values, list) or not values:
        raise UserError(f"values of {name!r} must be a list that is not empty, got {values!r}")
    if isinstance(DEFAULTS.get(name, ""), str):
        return values
    # YAML reads 1e-4 as a text, a flag does not
    return [field_value(name, value) if isinstance(value, str) else value for value in values]


def _named(kind: str, value: object, folder: Path) -> object:
    """The name of a component; a file is looked for in the working folder, as `wandb agent` does
    it, and then in the folder of the sweep file."""
    return resolve(kind, value, (Path(), folder)) if isinstance(value, str) else value


def _setting(name: str, values: list) -> object:
    """The one value of an option. Raises `UserError` for several, or one of another type."""
    if len(values) != 1:
        raise UserError(f"parameter {name!r} must have one value, got {values!r}")
    kind = type(getattr(Options, name))
    allowed = {int: "a whole number", bool: "true or false"}[kind]
    require(type(values[0]) is kind, name, values[0], allowed)
    return values[0]
