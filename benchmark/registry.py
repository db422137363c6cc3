"""The components: one file each, and the file's name is the component's name.

Listing the names imports nothing, so that a configuration can be checked, and `--help` printed,
without torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmark.errors import UserError

KINDS = ("measures", "models", "data")


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of all components of a kind (`measures`, `models` or `data`), sorted."""
    assert kind in KINDS, kind
    folder = Path(__file__).parent / kind
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def check(field: str, kind: str, name: str) -> None:
    """Raise `UserError` unless `name` is a component of this kind; of a data set only the part
    before a colon counts (`folder:PATH`)."""
    if (name.partition(":")[0] if kind == "data" else name) not in names(kind):
        raise UserError(f"{field} must be one of {', '.join(names(kind))}, got {name!r}")


def load(kind: str, name: str) -> ModuleType:
    """Import the file of a component."""
    check(kind, kind, name)
    return import_module(f"benchmark.{kind}.{name}")


@dataclass(frozen=True)
class Measure:
    """An importance measure: a function from what it needs to one score per filter."""

    name: str
    order: int | str
    """The time derivative of the parameter norm that it uses (0, 1, 2), or `control`, or
    `truth`."""
    needs: tuple[str, ...]
    """The function's parameter names; `benchmark.measures._scoring` says what each one is."""
    temperature: float
    """T: the loss is the cross-entropy of logits / T."""
    at_init: bool
    """Whether it distinguishes filters at initialisation; if not, a grid makes no cuts at epoch 0
    with it."""
    function: Callable


def measure(
    *, order: int | str, temperature: float = 5.0, at_init: bool = True
) -> Callable[[Callable], Measure]:
    """Declare a measure: the function's name is the measure's, its parameters are what it needs."""

    def declare(function: Callable) -> Measure:
        needs = tuple(inspect.signature(function).parameters)
        return Measure(function.__name__, order, needs, temperature, at_init, function)

    return declare
