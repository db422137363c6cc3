"""The components: one file each, and the file's name is the component's name.

Listing the names imports nothing, so that a configuration can be checked, and `--help` printed,
without torch. Components that are not part of the suite are called `name@digest` (see
`benchmark.outside`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import ModuleType

from benchmark import outside
from benchmark.errors import UserError, require

KINDS = ("measures", "models", "data")
ORDERS = (0, 1, 2, "activation", "control", "truth")
NEEDS = (
    "weight", "initial", "gradient", "gradient_square", "hessian_gradient", "gamma", "beta",
    "gamma_square", "beta_square", "gate_square", "hessian_diagonal", "activation",
    "activation_gradient", "accumulated_gradient", "live", "uniform", "net",
)  # fmt: skip
"""What a measure may have as parameters; `benchmark.measures._scoring` says what each one is."""
TORCHVISION = "torchvision"
"""The architecture `torchvision:NAME` is a net of torchvision."""
DECLARED = {"models": "build", "data": "load"}
"""What the file of a component declares."""


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of all components of a kind (`measures`, `models` or `data`), sorted."""
    assert kind in KINDS, kind
    folder = Path(__file__).parent / kind
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def split(dataset: str) -> tuple[str, str]:
    """The component and the path of a data set: `folder:PATH` -> ("folder", "PATH"),
    `mine:PATH@digest` -> ("mine@digest", "PATH")."""
    head, _, path = dataset.partition(":")
    marked = re.fullmatch(r"(?s)(\w+)(?::(.*))?(@[0-9a-f]{12})", dataset)
    if head in names("data") or not marked:
        return head, path
    return marked[1] + marked[3], marked[2] or ""


def is_torchvision(kind: str, name: str) -> bool:
    """Whether a name is that of an architecture `torchvision:NAME`."""
    return kind == "models" and name.startswith(f"{TORCHVISION}:")


def resolve(kind: str, value: str, folders: Sequence[Path] = (Path(),)) -> str:
    """The name by which a run knows a component: `name@digest` for a file (a path that ends in
    `.py`, taken relative to the first of the folders where it exists) or a component of an
    installed package; other values are returned as they are.

    kind: `measures`, `models` or `data`. Raises `UserError` for a file that cannot be read, or has
    the name of a component of the suite.
    """
    head, colon, path = value.partition(":") if kind == "data" else (value, "", "")
    if head.endswith(outside.ENDING):
        component = outside.add(kind, outside.located(head, folders))
        if component.stem in names(kind):
            raise UserError(
                f"{component} has the name of a component of the suite: give it another one"
            )
    elif head in names(kind) or not (component := outside.installed(kind, head)):
        return value
    stem, _, digest = component.name.partition("@")
    return f"{stem}{colon}{path}@{digest}"


def known(kind: str, name: str) -> bool:
    """Whether the suite or an installed package has a component of this name."""
    ours = name in names(kind) or (kind, name) == ("models", TORCHVISION)
    return ours or name in outside.declared(kind)


def declared_in(path: Path) -> list[str]:
    """The kinds of components that a file of a user declares."""
    module = outside.module(outside.add("measures", path))
    found = ["measures"] if isinstance(getattr(module, path.stem, None), Measure) else []
    return found + [kind for kind, declared in DECLARED.items() if hasattr(module, declared)]


def check(field: str, kind: str, name: str) -> None:
    """Raise `UserError` unless `name` is a component of this kind; of a data set only the part
    before a colon counts (`folder:PATH`)."""
    component = split(name)[0] if kind == "data" else name
    if outside.is_outside(component) or is_torchvision(kind, component):
        load(kind, component)
    elif component not in names(kind):
        more = f"{TORCHVISION}:NAME, " if kind == "models" else ""
        allowed = f"one of {', '.join(names(kind))}, {more}or a file {outside.ENDING}"
        raise UserError(f"{field} must be {allowed}, got {name!r}")


def load(kind: str, name: str) -> ModuleType:
    """Import the file of a component. Raises `UserError` for a file that does not declare what a
    component of this kind does."""
    if is_torchvision(kind, name):
        return import_module("benchmark.models._torchvision").architecture(name)
    if not outside.is_outside(name):
        check(kind, kind, name)
        return import_module(f"benchmark.{kind}.{name}")
    component = outside.find(kind, name)
    module = outside.module(component)
    if kind == "measures":
        _check_measure(component, getattr(module, component.stem, None))
    elif not hasattr(module, DECLARED[kind]):
        raise UserError(f"{component} must declare {DECLARED[kind]}")
    if kind == "models":
        _check_build(component, module.build)
    return module


def load_measure(name: str) -> Measure:
    """A measure by its name, which it has as its `name` too."""
    return replace(getattr(load("measures", name), name.partition("@")[0]), name=name)


def _check_build(component: outside.Component, build: object) -> None:
    """Raise `UserError` unless `build` takes what `benchmark.models.build` gives it."""
    if not callable(build):
        raise UserError(f"{component}: build must be a function, got {build!r}")
    signature = inspect.signature(build)
    width = {"width": 1.0} if "width" in signature.parameters else {}
    try:
        signature.bind(2, **width)
    except TypeError:
        allowed = "(num_classes, width=1.0) or (num_classes)"
        raise UserError(f"{component}: build must take {allowed}, got {signature}") from None


def _check_measure(component: outside.Component, found: object) -> None:
    """Raise `UserError` unless a file declares the measure that has its name."""
    if not isinstance(found, Measure) or found.name != component.stem:
        raise UserError(
            f"{component} must have a function {component.stem}, decorated by "
            "benchmark.registry.measure"
        )
    for need in found.needs:
        known = need in NEEDS and (need != "net" or len(found.needs) == 1)
        require(known, f"{component}: parameters", need, f"among {', '.join(NEEDS)} (net alone)")
    require(bool(found.needs), f"{component}: parameters", "none", f"among {', '.join(NEEDS)}")
    orders = ", ".join(map(str, ORDERS))
    require(found.order in ORDERS, f"{component}: order", found.order, f"one of {orders}")
    t = found.temperature
    good = isinstance(t, (int, float)) and isfinite(t) and t > 0
    require(good, f"{component}: temperature", t, "a number above 0")


@dataclass(frozen=True)
class Measure:
    """An importance measure: a function from what it needs to one score per filter."""

    name: str
    order: int | str
    """The time derivative of the parameter norm that it uses (0, 1, 2), or `activation`, `control`
    or `truth`."""
    needs: tuple[str, ...]
    """The function's parameter names; `benchmark.measures._scoring` says what each one is."""
    temperature: float
    """T: the loss is the cross-entropy of logits / T."""
    at_init: bool
    """Whether it distinguishes filters at initialisation; if not, a grid makes no cuts at epoch 0
    with it."""
    function: Callable
    paper: bool = False
    """Whether Lubana & Dick (ICLR 2021) use it."""

    @property
    def needs_norm(self) -> bool:
        """Whether it scores a filter by the batch norm behind its conv."""
        return any(need.startswith(("gamma", "beta", "gate")) for need in self.needs)

    @property
    def accumulates(self) -> bool:
        """Whether it needs the gradients of training."""
        return "accumulated_gradient" in self.needs


def measure(
    *, order: int | str, temperature: float = 5.0, at_init: bool = True, paper: bool = False
) -> Callable[[Callable], Measure]:
    """Declare a measure: the function's name is the measure's, its parameters are what it needs.

    order: the time derivative of the parameter norm that it uses (0, 1 or 2), or `activation`,
    `control` or `truth`. temperature: T, of the cross-entropy of logits / T. at_init: whether it
    tells filters apart at initialisation. paper: whether the paper uses it. The function is called
    for each conv with F filters of K weights, with tensors [F, K] and [F] (docs/extending.md), and
    returns scores [F]; the lowest are pruned first.
    """

    def declare(function: Callable) -> Measure:
        needs = tuple(inspect.signature(function).parameters)
        return Measure(function.__name__, order, needs, temperature, at_init, function, paper)

    return declare
