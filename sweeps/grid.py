"""Grids: W&B sweep files (`method: grid`) read as lists of runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmark.config import DEFAULTS, RunConfig
from benchmark.errors import UserError
from benchmark.options import Options
from benchmark.schedule import schedule

FILE_KEYS = ("name", "description", "project", "program", "command", "method", "metric", "parameters")
OPTION_FIELDS = ("flow_every", "score_all")
"""Options that say what is recorded; a grid may set them, for all its runs alike."""


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep file, each once."""

    name: str
    points: int
    """Points of the product, of which equal runs are one."""
    configs: list[RunConfig]
    settings: dict[str, object]
    """Values of `OPTION_FIELDS`."""

    def options(self, options: Options) -> Options:
        """The command's options with the grid's settings."""
        return replace(options, **self.settings)

    def epochs(self) -> int:
        """Epochs of all runs, each counted alone."""
        return sum(schedule(config).total for config in self.configs)

    def shared_epochs(self) -> int:
        """Epochs that the shared dense phase saves."""
        alone = sum(schedule(config).dense for config in self.configs)
        longest: dict[str, int] = {}
        for config in self.configs:
            prefix = config.dense().run_id
            longest[prefix] = max(longest.get(prefix, 0), schedule(config).dense)
        return alone - sum(longest.values())


def load(path: Path) -> Grid:
    """Read a sweep file. Raises `UserError` that names the file, the key and what is allowed."""
    content = _read(path)
    for key in content:
        if key not in FILE_KEYS:
            raise UserError(f"{path}: unknown key {key!r}; the keys are {', '.join(FILE_KEYS)}")
    if content.get("method") != "grid":
        raise UserError(f"{path}: method must be 'grid', got {content.get('method')!r}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{path}: parameters must be a mapping of fields to value or values, got {parameters!r}")
    axes = {name: _values(path, name, entry) for name, entry in parameters.items()}
    settings = {name: _single(path, name, axes.pop(name)) for name in OPTION_FIELDS if name in axes}
    try:
        Options(**settings)
        points = [RunConfig(**dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    unique = {config.run_id: config.canonical() for config in points}
    return Grid(str(content.get("name", Path(path).stem)), len(points), list(unique.values()), settings)


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"grid file {path} does not exist") from None
    except yaml.YAMLError as error:
        raise UserError(f"grid file {path} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"grid file {path} must be a mapping, got {type(content).__name__}")
    return content


def _values(path: Path, name: str, entry: object) -> list:
    if name not in DEFAULTS and name not in OPTION_FIELDS:
        known = ", ".join((*DEFAULTS, *OPTION_FIELDS))
        raise UserError(f"{path}: unknown parameter {name!r}; the parameters are {known}")
    if not isinstance(entry, dict) or set(entry) not in ({"value"}, {"values"}):
        raise UserError(f"{path}: parameter {name!r} must have either value or values (none nested), got {entry!r}")
    if "value" in entry:
        return [entry["value"]]
    if not isinstance(entry["values"], list) or not entry["values"]:
        raise UserError(f"{path}: values of {name!r} must be a list that is not empty, got {entry['values']!r}")
    return entry["values"]


def _single(path: Path, name: str, values: list) -> object:
    if len(values) != 1:
        raise UserError(f"{path}: parameter {name!r} must have one value, got {values!r}")
    return values[0]
