"""`python -m benchmark.speed`: how long scoring takes here, measured side by side."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.cli import guarded, parse
from benchmark.errors import require
from benchmark.options import Options

DESCRIPTION = "Time the scoring of digits: one gradient pass, `grasp`, and the twelve measures that share passes."
TWELVE = (
    "magnitude", "l1", "bn_scale", "loss", "taylor", "loss_biased", "loss_biased_init", "fisher", "fisher_bn",
    "grasp", "grad_preservation", "random",
)  # fmt: skip
CONTESTANTS = {"loss": ("loss",), "grasp": ("grasp",), "twelve": TWELVE}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What to time, and where."""

    archs: tuple[str, ...] = ("vgg13", "mobilenet_v1", "resnet56")
    """Architectures."""
    width: float = 1.0
    """Factor on the number of filters."""
    images: int = 2560
    """Images to score on; the digits are repeated as often as needed."""
    repeats: int = 3
    """How often each is timed, in turn."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads (0: torch's choice)."""
    json: Path | None = None
    """Also write the numbers to this file."""


def main() -> None:
    """Run the command."""
    command = parse(Speed, "python -m benchmark.speed", DESCRIPTION)
    guarded(lambda: execute(command))


def execute(command: Speed) -> None:
    """Time each architecture in turn, and print the table."""
    from rich.console import Console  # here, so that --help is quick
    from rich.table import Table

    from benchmark import registry

    for name in ("images", "repeats"):
        require(getattr(command, name) >= 1, name, getattr(command, name), "at least 1")
    for arch in command.archs:
        registry.check("archs", "models", arch)
    options = Options(device=command.device, threads=command.threads)
    options.prepare()
    table = Table("arch", "loss", "grasp", "twelve measures", "twelve / grasp", "(min to max)", "n")
    results = []
    for arch in command.archs:
        times = time_scoring(arch, command, options)
        ratios = [twelve / grasp for twelve, grasp in zip(times["twelve"], times["grasp"], strict=True)]
        medians = {name: statistics.median(values) for name, values in times.items()}
        table.add_row(
            arch, *(f"{seconds:.1f} s" for seconds in medians.values()), f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}", str(command.repeats),
        )  # fmt: skip
        results.append({"arch": arch, "seconds": times, "ratio": ratios})
    Console().print(f"{command.images} digits, width {command.width:g}, {options.device_name()}, median seconds")
    Console().print(table)
    if command.json:
        command.json.write_text(json.dumps({"images": command.images, "width": command.width, "results": results}))


def time_scoring(arch: str, command: Speed, options: Options) -> dict[str, list[float]]:
    """{contestant: seconds of each repetition}, timed in turn after one small warm-up of each."""
    import torch

    from benchmark import data
    from benchmark.models import build
    from benchmark.scoring import score_all

    device = options.torch_device()
    digits = data.load("digits", options.data)
    rows = torch.arange(command.images) % len(digits.train_labels)
    images, labels = (torch.from_numpy(part)[rows].to(device) for part in (digits.train_images, digits.train_labels))
    net = build(arch, width=command.width).to(device)
    initial = {name: net.get_submodule(name).weight.detach().clone() for name in net.convs}

    def score(names: tuple[str, ...], count: int) -> None:
        score_all(net, names, images[:count], labels[:count], initial=initial)

    return alternated({name: lambda n, m=measures: score(m, n) for name, measures in CONTESTANTS.items()}, command)


def alternated(contestants: dict[str, Callable[[int], None]], command: Speed) -> dict[str, list[float]]:
    """Seconds of each contestant, called with the number of images, in turn."""
    import torch

    for contestant in contestants.values():
        contestant(min(64, command.images))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(command.repeats):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant(command.images)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
