"""`python -m benchmark.perf.overhead` measures the cost of tracking, against the same run without
it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmark.cli import check_file, guarded, parse
from benchmark.config import RunConfig
from benchmark.errors import require
from benchmark.options import Options
from benchmark.processes import in_new_process
from benchmark.tracking.tracker import MODES

DESCRIPTION = (
    "Time runs with and without tracking, in turn. They train on few images, so that the seconds "
    "that tracking adds stand out from the noise. The share of a run of --seconds is printed too."
)
NONE = "disabled"
EPOCHS = 30
CONFIG = RunConfig(
    width=0.0625,
    ratio=0.6,
    epochs=EPOCHS,
    train_limit=64,
    batch_size=64,
    score_samples=64,
    probe_samples=64,
)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What to time."""

    modes: tuple[str, ...] = ("offline",)
    """Modes of tracking to compare with none: offline, online (to the server that wandb is set up
    for)."""
    seconds: float = 30.0
    """Length of the run of which the cost is a share."""
    repeats: int = 10
    """How often each mode is timed, in turn."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads."""
    json: Path | None = None
    """Also write the numbers to this file."""


def execute(command: Overhead) -> None:
    """Time the modes in turn, and print the table."""
    from rich.console import Console  # here, so that --help is quick
    from rich.table import Table

    for mode in command.modes:
        require(mode in MODES, "modes", mode, "among " + ", ".join(MODES))
    require(command.repeats >= 1, "repeats", command.repeats, "at least 1")
    require(command.seconds > 0, "seconds", command.seconds, "above 0")
    check_file("json", command.json)
    options = Options(device=command.device, threads=command.threads, wandb=NONE)
    modes = tuple(dict.fromkeys((NONE, *command.modes)))
    first = {mode: in_new_process(timed, (mode,), 1, options)[mode][0] for mode in modes}
    later = in_new_process(timed, modes, 1 + command.repeats, options)
    later = {mode: seconds[1:] for mode, seconds in later.items()}
    share = f"of a run of {command.seconds:g} s"
    table = Table("tracking", "more than without", "(min to max)", share, "n", "first run (n = 1)")
    for mode in modes[1:]:
        more = [tracked - bare for tracked, bare in zip(later[mode], later[NONE], strict=True)]
        table.add_row(
            mode,
            f"{median(more):+.2f} s",
            f"{min(more):+.2f} to {max(more):+.2f} s",
            f"{median(more) / command.seconds:+.1%}",
            str(command.repeats),
            f"{first[mode] - first[NONE]:+.2f} s",
        )
    console = Console()
    console.print(
        f"{EPOCHS} epochs on {CONFIG.train_limit} images take {median(later[NONE]):.2f} s without "
        f"tracking, {options.device_name()}; medians of differences between neighbours"
    )
    console.print(table)
    if len(modes) > 1:
        console.print("The first run of a process also imports wandb and starts its service.")
    if command.json:
        command.json.write_text(json.dumps({"epochs": EPOCHS, "first": first, "later": later}))


def timed(
    modes: tuple[str, ...], repeats: int, options: Options, config: RunConfig = CONFIG
) -> dict[str, list[float]]:
    """{mode: seconds of each run}, the modes in turn, each run in a folder of its own.

    From the first line of `run` to its end; torch is imported before.
    """
    options.prepare()
    from benchmark.run import run

    def seconds(mode: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run(config, dataclasses.replace(options, wandb=mode, runs=Path(folder)))
            return time.perf_counter() - start

    rounds = [{mode: seconds(mode) for mode in modes} for _ in range(repeats)]
    return {mode: [of_round[mode] for of_round in rounds] for mode in modes}


if __name__ == "__main__":
    command = parse(Overhead, "python -m benchmark.perf.overhead", DESCRIPTION)
    guarded(lambda: execute(command))
