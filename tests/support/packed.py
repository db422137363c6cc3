"""Makes the local engine pack runs, with stand-ins for CUDA's streams and graphs, in a process of
Python and in those that it starts: `environment` gives the variables.

A captured step is recorded and replayed by running it again; a run's stream is a name, and a replay
must come on the stream that it was captured on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import itertools
import sys
from pathlib import Path

RUNS = 4
"""Runs that each worker takes."""
SITE = "from tests.support.packed import install\ninstall()\n"


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process; folder: for a file that Python reads at its start."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"}


def install() -> None:
    """Change the modules of the engine as soon as they are imported."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        change = CHANGES.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def changed(module):
            execute(module)
            change(module)

        spec.loader.exec_module = changed
        return spec


def _engine(module) -> None:
    begin = module.LocalEngine.__init__

    @functools.wraps(begin)
    def packed(self, *arguments, **settings):
        begin(self, *arguments, **settings | {"packed": settings.get("packed") or RUNS})

    module.LocalEngine.__init__ = packed


def _slots(module) -> None:
    numbers = itertools.count(1)

    def own_place(options):
        name = next(numbers)

        @contextlib.contextmanager
        def on():
            assert HERE == [], "turns are not taken inside each other"
            HERE.append(name)
            try:
                yield
            finally:
                HERE.clear()

        return on

    module.own_place = own_place


def _step(module) -> None:
    def captured(step, stream):
        home = list(HERE)

        def replay():
            assert home == HERE, "a graph is replayed on the stream that it was captured on"
            step()

        return replay

    module.captured = captured
    module.on_the_side = lambda step, device: step()
    module.side_stream = lambda device: None
    module.step_kind = lambda device: module.ReplayedStep


HERE: list[int] = []
"""The stream of the run whose turn it is."""
CHANGES = {
    "sweeps.engines.local": _engine,
    "sweeps.engines.slots": _slots,
    "benchmark.training.step": _step,
}
