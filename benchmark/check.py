"""`flowprune check my/cosine.py`: tests a component and says in plain words what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmark import outside, registry
from benchmark.cli import guarded, parse
from benchmark.errors import UserError

FAULTY = 1


@dataclass(frozen=True)
class Check:
    """Test a measure, an architecture or a data set, and say what is wrong. Exit status 1 if
    something is."""

    component: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE|NAME")]
    """A file of your own (`my/data.py:PATH` for a data set with a path), or a component of the
    suite or of an installed package."""
    data: Path = Path("data")
    """Folder of the data sets."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m benchmark.check") -> None:
    """Execute the command line."""
    command = parse(Check, prog, Check.__doc__, argv)
    guarded(lambda: execute(command))


def execute(command: Check) -> int:
    """Print what is wrong with a component; the exit status."""
    found = kinds(command.component)
    faults = {kind: faults_of(kind, name, command.data) for kind, name in found.items()}
    for kind, name in found.items():
        verdict = "is wrong:" if faults[kind] else "is fine"
        print(f"{outside.NOUNS[kind]} {name} {verdict}")
        for fault in faults[kind]:
            print(f"  {fault}")
    return FAULTY if any(faults.values()) else 0


def kinds(component: str) -> dict[str, str]:
    """{kind: name} of what a file declares, or of what has this name. Raises `UserError` if it is
    nothing."""
    head = component.partition(":")[0]
    if head.endswith(outside.ENDING):
        found = registry.declared_in(Path(head))
        if not found:
            raise UserError(
                f"file {head} must declare a measure {Path(head).stem}, or "
                f"{registry.DECLARED['models']} (an architecture), or {registry.DECLARED['data']} "
                "(a data set)"
            )
    else:
        found = [kind for kind in registry.KINDS if registry.known(kind, head)]
        if not found:
            raise UserError(f"component must be a file {outside.ENDING} or a name, got {head!r}")
    return {kind: registry.resolve(kind, component) for kind in found}


def faults_of(kind: str, name: str, root: Path) -> list[str]:
    """What is wrong with a component."""
    from benchmark import contracts  # here, because it imports torch

    registry.check(outside.NOUNS[kind], kind, name)
    if kind == "measures":
        return contracts.measure_faults(name)
    if kind == "models":
        return contracts.model_faults(name)
    return contracts.data_faults(name, root)


if __name__ == "__main__":
    main()
