"""The command `flowprune`: the commands of `benchmark`, `sweeps` and `analysis` under one name.

It works in any folder: processes take no module from the working folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from benchmark import __version__
from benchmark.cli import fail


@dataclass(frozen=True)
class Entry:
    """A command."""

    execute: Callable[[Sequence[str], str], object]
    """Executes arguments, under the name of the command. It imports what it needs itself, so that
    the other commands start quickly."""
    text: str


def _main(module: str) -> Callable[[Sequence[str], str], None]:
    """The command of a module, which is imported when it is executed."""
    return lambda argv, prog: import_module(module).main(argv, prog)


def _push(argv: Sequence[str], prog: str) -> None:
    _main("sweeps.__main__")(["push", *argv], prog.removesuffix(" push"))


def _reports(argv: Sequence[str], prog: str) -> None:
    from analysis.__main__ import execute_named

    execute_named(prog.rpartition(" ")[2], argv, prog)


COMMANDS = {
    "run": Entry(_main("benchmark.__main__"), "one run: train, prune, train on"),
    "sweep": Entry(_main("sweeps.__main__"), "a grid of runs: plan, run, status or push"),
    "report": Entry(_reports, "the report of runs: verdicts, figures, tables"),
    "compare": Entry(_reports, "two sources of runs side by side"),
    "publish": Entry(_reports, "the finished runs of a study as a few files"),
    "push": Entry(_push, "upload finished runs to W&B"),
    "dashboard": Entry(_reports, "a W&B workspace that compares the measures of a project"),
    "descent": Entry(_reports, "the figures of the check of gradient flow"),
    "export": Entry(_main("benchmark.export"), "the final net of a run as an ONNX file"),
    "list": Entry(_main("analysis.catalogue"), "measures, archs, datasets or grids, as a table"),
    "check": Entry(
        _main("benchmark.check"), "test a measure, an architecture or a data set of your own"
    ),
}


def usage() -> str:
    """What `flowprune --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.text}" for name, entry in COMMANDS.items()]
    return "\n".join(
        ["usage: flowprune COMMAND ...", "", *lines, "", "flowprune COMMAND --help says more."]
    )


def main() -> None:
    """Execute the command line."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
    elif name == "--version":
        print(f"flowprune {__version__}")
    elif name in COMMANDS:
        COMMANDS[name].execute(argv, f"flowprune {name}")
    else:
        fail(f"command must be one of {', '.join(COMMANDS)}, got {name!r}")


if __name__ == "__main__":
    main()
