"""Components from outside: files that a command names, and modules of installed packages.

Such a component is called `name@digest`: the name of its file, and the first 12 hex digits of the
file's SHA-256. It is looked up among the files that this process was given, the entry points of
installed packages (`flowprune.measures`, `flowprune.models`, `flowprune.data`), and the copies in
run records. `benchmark.registry` checks what a file declares.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from benchmark.errors import UserError, one_line
from benchmark.files import DIGITS, short_digest

ENDING = ".py"
COPIES = "components"
"""Folder of a record with the files of its components: `components/<kind>/<name>.py`."""
NOUNS = {"measures": "measure", "models": "arch", "data": "dataset"}
"""{kind: the field of a run that names such a component}"""


@dataclass(frozen=True)
class Component:
    """A file of a component."""

    kind: str
    stem: str
    """Name without the digest."""
    path: str
    content: bytes
    module: str | None = None
    """Its name for `import`, in an installed package."""

    @property
    def name(self) -> str:
        """`name@digest`."""
        return f"{self.stem}@{short_digest(self.content)}"

    @property
    def copy(self) -> str:
        """Where its copy lies in the folder of a record."""
        return f"{COPIES}/{self.kind}/{self.stem}{ENDING}"

    def __str__(self) -> str:
        return f"{NOUNS[self.kind]} file {self.path}"


_given: dict[tuple[str, str], Component] = {}
_runs: dict[Path, None] = {}


def add(kind: str, path: Path) -> Component:
    """The component of a file, which this process knows from now on. Raises `UserError` for a file
    that cannot be read, or whose name is no name."""
    component = _read(kind, path)
    adopt([component])
    return component


def adopt(components: Iterable[Component]) -> None:
    """Make components known in this process."""
    _given.update({(component.kind, component.name): component for component in components})


def given() -> tuple[Component, ...]:
    """The components that this process knows, for another process to `adopt`."""
    return tuple(_given.values())


def look_in(runs: Path) -> None:
    """Also look among the copies in this folder of runs: of components in its records, and of
    initial weights (`benchmark.initial`)."""
    _runs[Path(runs)] = None


def looked_in() -> tuple[Path, ...]:
    """The folders of runs that `look_in` named."""
    return tuple(_runs)


def located(value: str, folders: Sequence[Path]) -> Path:
    """A path relative to the first of the folders where it exists, or else to the first."""
    files = [Path(folder) / value for folder in folders]
    return next((file for file in files if file.exists()), files[0])


def is_outside(name: str) -> bool:
    """Whether a name has a digest."""
    return bool(re.fullmatch(rf"\w+@[0-9a-f]{{{DIGITS}}}", name))


def find(kind: str, name: str) -> Component:
    """The component `name@digest`. Raises `UserError` if it is not there, or its file has
    changed."""
    if (kind, name) not in _given:
        stem, _, digest = name.partition("@")
        candidates = [*_installed(kind, stem), *_copies(kind, stem)]
        if found := next((one for one in candidates if one.name == name), None):
            adopt([found])
            return found
        known = [one for one in given() if (one.kind, one.stem) == (kind, stem)]
        changed = "".join(f"; {one.path} has the digest {one.name[-DIGITS:]}"
                          for one in (known + candidates)[:1])  # fmt: skip
        noun = NOUNS[kind]
        raise UserError(
            f"{noun} {name} is not here: give its file, --{noun} {stem}{ENDING}, in the version "
            f"with the digest {digest}{changed}"
        )
    return _given[kind, name]


def installed(kind: str, stem: str) -> Component | None:
    """The component of an installed package that has this name. Raises `UserError` if two packages
    have one, or it cannot be found."""
    found = _installed(kind, stem)
    if len({one.name for one in found}) > 1:
        files = " and ".join(one.path for one in found)
        raise UserError(f"{NOUNS[kind]} {stem} is declared by two packages: {files}; remove one")
    adopt(found)
    return found[0] if found else None


def declared(kind: str) -> dict[str, str]:
    """{name: package} of the components that installed packages declare, sorted."""
    found = entry_points(group=f"flowprune.{kind}")
    return {entry.name: entry.dist.name if entry.dist else "" for entry in sorted(found)}


def module(component: Component) -> ModuleType:
    """The imported file. Raises `UserError` that names the file and the line if that fails."""
    name = component.module or f"flowprune {component.name}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        if component.module:
            return importlib.import_module(component.module)
        fresh = ModuleType(name)
        fresh.__file__ = component.path
        sys.modules[name] = fresh  # dataclasses look their module up
        exec(compile(component.content, component.path, "exec"), fresh.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise UserError(
            f"{component} cannot be imported: {type(error).__name__}: {one_line(error)}"
            f"{_line(error, component.path)}"
        ) from error
    return fresh


def _line(error: BaseException, path: str) -> str:
    """The line of the file at which an error was raised."""
    steps = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in steps if frame.f_code.co_filename == path]
    return f" (line {lines[-1]})" if lines else ""


def _read(kind: str, path: Path, module: str | None = None, stem: str = "") -> Component:
    what = f"{NOUNS[kind]} file {path}"
    stem = stem or path.stem
    if not re.fullmatch(r"[A-Za-z_]\w*", stem):
        raise UserError(f"{what} must have a name of letters, digits and underscores")
    try:
        return Component(kind, stem, str(path), path.read_bytes(), module)
    except FileNotFoundError:
        raise UserError(f"{what} does not exist") from None
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror})") from None


def _installed(kind: str, stem: str) -> list[Component]:
    entries = entry_points(group=f"flowprune.{kind}", name=stem)
    return [_read(kind, _origin(kind, entry), entry.module, stem) for entry in entries]


def _origin(kind: str, entry: EntryPoint) -> Path:
    try:
        spec = importlib.util.find_spec(entry.module)
    except Exception as error:  # of the packages around it, which this imports
        what = f"{NOUNS[kind]} {entry.name} of package {entry.dist.name}"
        raise UserError(f"{what} cannot be imported: {one_line(error)}") from error
    if spec is None or not spec.origin:
        what = f"{NOUNS[kind]} {entry.name}: its package has no module {entry.module}"
        raise UserError(what)
    return Path(spec.origin)


def _copies(kind: str, stem: str) -> list[Component]:
    files = [
        path for runs in _runs for path in sorted(runs.glob(f"*/{COPIES}/{kind}/{stem}{ENDING}"))
    ]
    return [_read(kind, path) for path in files]
