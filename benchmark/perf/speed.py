"""`python -m benchmark.perf.speed`: how fast training, evaluation and scoring are here, beside the
loops of a naive user."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmark.cli import check_file, guarded, parse
from benchmark.config import PRECISIONS
from benchmark.errors import require, require_one_of
from benchmark.options import Options
from benchmark.processes import in_new_process

if TYPE_CHECKING:
    from rich.console import Console

DESCRIPTION = (
    "Time training, evaluation and scoring, in turn with the loops that a user would write first: "
    "plain torch in float32, channels first, a DataLoader of PIL images with two workers, .item() "
    "after each step."
)
PARTS = ("train", "evaluate", "score", "memory")
ASKED = ("probe", "measures")
"""Parts that are measured only if they are asked for: at full width they take minutes on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What to time, and where."""

    archs: tuple[str, ...] = ("vgg13", "mobilenet_v1", "resnet56")
    """Architectures."""
    parts: tuple[str, ...] = PARTS
    """What to measure: train, evaluate, score, memory (the peak of a process that scores), and if
    asked for probe (a cut probe, against the scores of all measures) and measures (each alone)."""
    width: float = 1.0
    """Factor on the number of filters."""
    ratios: tuple[float, ...] = (0.0, 0.75)
    """Fractions of the filters pruned (by magnitude, in the untrained net) before training is
    timed."""
    steps: int | None = None
    """Training steps of 128 images at a time (unless told: 4 on a CPU, 100 on a GPU)."""
    images: int | None = None
    """Images to evaluate and to score on; the digits are repeated as often as needed (unless told:
    512 on a CPU, 10000 on a GPU)."""
    repeats: int = 3
    """How often each is timed, in turn."""
    precision: str = "float32"
    """Arithmetic of training (the naive loop has float32): float32, tf32 or bf16."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads."""
    json: Path | None = None
    """Also write the numbers to this file."""


def execute(command: Speed) -> None:
    """Time each architecture in turn, and print the tables."""
    from rich.console import Console  # here, so that --help is quick

    from benchmark.perf.contests import NEEDS, Bench, peak_memory

    options = Options(device=command.device, threads=command.threads)
    options.prepare()
    command = sized(command, options.torch_device().type)
    check(command)
    console, device = Console(), options.device_name()
    console.print(
        f"width {command.width:g}, {command.precision}, {device}, n = {command.repeats}, medians"
    )
    rows, memory, probes, measures = [], [], [], []
    for arch in command.archs:
        bench = Bench(arch, command, options)
        for part in PARTS:
            if part in command.parts and part != "memory":
                rows += getattr(bench, part)()
        if "probe" in command.parts:
            probes.append(bench.probe())
        if "measures" in command.parts:
            measures += bench.measures()
        if "memory" in command.parts:
            memory += [
                (arch, need, in_new_process(peak_memory, arch, need, command)) for need in NEEDS
            ]
    show(console, rows, memory, probes, measures)
    if command.json:
        found = document(command, device, rows, memory) | {"probe": probes, "measures": measures}
        command.json.write_text(json.dumps(found, indent=1))


def sized(command: Speed, device: str) -> Speed:
    """The command with sizes that take about a second on this type of device."""
    steps, images = (100, 10_000) if device == "cuda" else (4, 512)
    return replace(
        command,
        steps=steps if command.steps is None else command.steps,
        images=images if command.images is None else command.images,
    )


def check(command: Speed) -> None:
    """Raise `UserError` for a value that is not allowed."""
    from benchmark import registry

    for name in ("images", "repeats", "steps"):
        require(getattr(command, name) >= 1, name, getattr(command, name), "at least 1")
    require_one_of("precision", command.precision, PRECISIONS)
    for part in command.parts:
        require_one_of("parts", part, (*PARTS, *ASKED))
    for ratio in command.ratios:
        require(0 <= ratio < 1, "ratios", ratio, "at least 0 and below 1")
    for arch in command.archs:
        registry.check("archs", "models", arch)
    check_file("json", command.json)


def show(
    console: Console,
    rows: list[dict],
    memory: list[tuple[str, str, int]],
    probes: list[dict],
    measures: list[dict],
) -> None:
    """Print the tables, and a line for each probe."""
    from rich.table import Table

    from benchmark.perf.contests import SCORED

    table = Table(
        "arch", "what", "ours", "compared with", "theirs", "times as fast", "(min to max)"
    )
    for row in rows:
        ratios = row["times as fast"]
        unit = f"s per {SCORED} images" if row["unit"] == "s" else row["unit"]
        table.add_row(
            row["arch"],
            row["what"],
            f"{row['ours']:.3g} {unit}",
            row["compared with"],
            f"{row['theirs']:.3g}",
            f"{median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    of_memory = Table("arch", f"peak memory of scoring {SCORED} images", "GB")
    for arch, need, peak in memory:
        of_memory.add_row(arch, need, f"{peak / 1e9:.2f}")
    of_measures = Table("arch", "measure", f"s per {SCORED} images", "(min to max)")
    for row in measures:
        times = row["seconds"]
        span = f"{min(times):.3g} to {max(times):.3g}"
        of_measures.add_row(row["arch"], row["measure"], f"{median(times):.3g}", span)
    for made in (table, of_memory, of_measures):
        if made.row_count:
            console.print(made)
    for made in probes:
        ratios = made["times scoring"]
        console.print(
            f"probe, {made['arch']}: {made['seconds']:.3g} s per {SCORED} scoring images, "
            f"{median(ratios):.2f} times the all-measure scoring "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def document(
    command: Speed, device: str, rows: list[dict], memory: list[tuple[str, str, int]]
) -> dict:
    """The numbers, with what they were measured on."""
    import torch

    return {
        "width": command.width,
        "precision": command.precision,
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "peak memory (bytes)": [
            dict(zip(("arch", "need", "bytes"), entry, strict=True)) for entry in memory
        ],
    }


if __name__ == "__main__":
    command = parse(Speed, "python -m benchmark.perf.speed", DESCRIPTION)
    guarded(lambda: execute(command))
