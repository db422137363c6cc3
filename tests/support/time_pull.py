"""`python -m tests.support.time_pull [--push]`: time to pull (and push) 200 runs of 160 epochs.

The client is the real one; the server is that of the tests, in this process.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.runs.pull import Pull
from benchmark.record import Record
from sweeps.push import push
from tests.support import simulate
from tests.support.planted import plant
from tests.support.wandb_server import ENTITY, Server, serving

PROJECT = "timed"


def plant_many(server: Server, folder: Path, runs: int, epochs: int) -> Frames:
    """Simulate runs, write them into a folder and to the server, and return their frames."""
    measures = ("magnitude", "loss", "grasp", "grad_preservation", "random")
    seeds = range(math.ceil(runs / len(measures)))
    configs = simulate.grid(
        measures=measures, timings=[40], rounds=[5], seeds=seeds, dense=False, epochs=epochs
    )[:runs]
    simulate.simulate(folder, configs)
    for config in configs:
        plant(server, Record(folder / config.run_id), PROJECT)
    return load(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument(
        "--push", action="store_true", help="also time `sweeps push`, of the same runs, twice"
    )
    arguments = parser.parse_args()
    with serving() as server, TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(server.environment(folder))
        plant_many(server, folder / "runs", arguments.runs, arguments.epochs)
        load_average = os.getloadavg()[0]
        print(f"{arguments.runs} runs of {arguments.epochs} epochs, load {load_average:.1f}")
        import wandb  # noqa: F401  not part of what is timed

        for title, offline in (
            ("pull", False),
            ("second pull, from the cache", False),
            ("offline", True),
        ):
            with timed(title):
                load(f"wandb:{ENTITY}/{PROJECT}", Pull(cache=folder / "cache", offline=offline))
        for title in ("push", "second push, of what is there") if arguments.push else ():
            with timed(title):
                push(folder / "runs", "pushed")


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Print how long a block took, by the clock and in processor time."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{title}: {wall:.1f} s ({cpu:.1f} s of processor time here, the server's part included)",
        flush=True,
    )


if __name__ == "__main__":
    main()
