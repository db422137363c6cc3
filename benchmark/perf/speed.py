"""`python -m benchmark.perf.speed`: how fast training, evaluation and scoring are here, beside the
loops of a naive user."""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli import check_file, guarded, parse
from benchmark.config import PRECISIONS
from benchmark.errors import require
from benchmark.options import Options

if TYPE_CHECKING:
    import torch

    from benchmark.models import Net

DESCRIPTION = (
    "Time training, evaluation and scoring, in turn with the loops that a user would write first: plain torch in "
    "float32, channels first, a DataLoader of PIL images with two workers, .item() after each step."
)
TWELVE = (
    "magnitude", "l1", "bn_scale", "loss", "taylor", "loss_biased", "loss_biased_init", "fisher", "fisher_bn",
    "grasp", "grad_preservation", "random",
)  # fmt: skip
NEEDS = {"none": ("magnitude",), "g": ("loss",), "Hg": ("grasp",), "all": TWELVE}
"""{what is computed: measures that need it}"""
PARTS = ("train", "evaluate", "score", "memory")
SCORED = 2560
"""Images that a cut is decided on, in the paper and by default: seconds are given for so many."""
BATCH = 128
PRUNE = "magnitude"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What to time, and where."""

    archs: tuple[str, ...] = ("vgg13", "mobilenet_v1", "resnet56")
    """Architectures."""
    parts: tuple[str, ...] = PARTS
    """What to time: train, evaluate, score, memory (peak memory of scoring, in a process of its
    own)."""
    width: float = 1.0
    """Factor on the number of filters."""
    ratios: tuple[float, ...] = (0.0, 0.75)
    """Fractions of the filters pruned (by magnitude, in the untrained net) before training is
    timed."""
    steps: int = 4
    """Training steps of 128 images at a time."""
    images: int = 512
    """Images to evaluate and to score on; the digits are repeated as often as needed."""
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


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of each repetition, ours and the other's, measured in turn."""

    arch: str
    what: str
    ours: list[float]
    other: list[float]
    other_name: str
    per: float
    """Images per measurement for a rate, or the factor to seconds per 2,560 images."""
    unit: str

    def value(self, seconds: list[float]) -> float:
        """Median, as images/s or seconds per 2,560 images."""
        median = statistics.median(seconds)
        return self.per / median if self.unit == "images/s" else median * self.per

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the other, repetition by repetition."""
        return [other / ours for ours, other in zip(self.ours, self.other, strict=True)]


def main() -> None:
    """Run the command."""
    command = parse(Speed, "python -m benchmark.perf.speed", DESCRIPTION)
    guarded(lambda: execute(command))


def execute(command: Speed) -> None:
    """Time each architecture in turn, and print the tables."""
    from rich.console import Console  # here, so that --help is quick

    check(command)
    check_file("json", command.json)
    options = Options(device=command.device, threads=command.threads)
    options.prepare()
    console = Console()
    console.print(
        f"width {command.width:g}, {command.precision}, {options.device_name()}, n = {command.repeats}, medians"
    )
    rows, memory = [], []
    for arch in command.archs:
        bench = Bench(arch, command, options)
        for part, measure in (
            ("train", bench.train),
            ("evaluate", bench.evaluate),
            ("score", bench.score),
        ):
            if part in command.parts:
                rows += measure()
        if "memory" in command.parts:
            memory += [(arch, need, peak_memory(arch, need, command)) for need in NEEDS]
    show(console, rows, memory)
    if command.json:
        command.json.write_text(json.dumps(document(command, options, rows, memory), indent=1))


def check(command: Speed) -> None:
    """Raise `UserError` for a value that is not allowed."""
    from benchmark import registry

    for name in ("images", "repeats", "steps"):
        require(getattr(command, name) >= 1, name, getattr(command, name), "at least 1")
    require(
        command.precision in PRECISIONS,
        "precision",
        command.precision,
        "one of " + ", ".join(PRECISIONS),
    )
    for part in command.parts:
        require(part in PARTS, "parts", part, "one of " + ", ".join(PARTS))
    for ratio in command.ratios:
        require(0 <= ratio < 1, "ratios", ratio, "at least 0 and below 1")
    for arch in command.archs:
        registry.check("archs", "models", arch)


class Bench:
    """The contests of one architecture."""

    def __init__(self, arch: str, command: Speed, options: Options) -> None:
        import torch

        from benchmark import data
        from benchmark.models import build

        self.arch, self.command, self.device = arch, command, options.torch_device()
        digits = data.load("digits", options.data)
        self.rows = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
        torch.manual_seed(0)
        self.net = build(arch, width=command.width).to(self.device)

    def images(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """So many digits on the device, repeated as often as needed."""
        import torch

        chosen = torch.arange(count) % len(self.rows[1])
        return tuple(part[chosen].to(self.device) for part in self.rows)

    def pruned(self, ratio: float) -> Net:
        """The net without this fraction of its filters, channels last in memory."""
        from benchmark.measures import score
        from benchmark.pruning import compact, select
        from benchmark.training.state import prepared

        net = self.net
        if ratio:
            net = compact(net, select(net, score(net, PRUNE, *self.images(1)), ratio))
        return prepared(net, self.device)

    def train(self) -> list[Row]:
        """The dense net against the naive loop, and pruned nets against the dense one."""
        from benchmark.perf import naive

        count = BATCH * self.command.steps
        images, labels = self.images(count)
        rows = []
        for ratio in self.command.ratios:
            ours = self._epoch(self.pruned(ratio), count)
            if ratio:
                other, name = self._epoch(self.pruned(0), count), "dense"
            else:
                net = naive.plain(self.net)
                optimizer = self._sgd(net)
                batches = naive.loader(images, labels, BATCH, train=True)
                other, name = (
                    lambda n=net, o=optimizer, b=batches: naive.train(n, o, b, 5.0),
                    "naive",
                )
            rows.append(
                self._row(f"train, {ratio:.0%} pruned", ours, other, name, count, "images/s")
            )
        return rows

    def evaluate(self) -> list[Row]:
        """Evaluation against the naive loop."""
        from benchmark import flow
        from benchmark.perf import naive

        images, labels = self.images(self.command.images)
        net, plain = self.pruned(0), naive.plain(self.net)
        batches = naive.loader(images, labels, BATCH, train=False)
        return [
            self._row(
                "evaluate", lambda: flow.evaluate(net, images, labels, 5.0), lambda: naive.evaluate(plain, batches),
                "naive", len(images), "images/s",
            )
        ]  # fmt: skip

    def score(self) -> list[Row]:
        """g and Hg against the naive passes, and twelve measures in one call against `grasp`
        alone."""
        from benchmark.perf import naive

        images, labels = self.images(self.command.images)
        net, plain, scale = self.pruned(0), naive.plain(self.net), SCORED / self.command.images
        others = {
            "g": ("naive", lambda: naive.gradient(plain, images, labels, 5.0)),
            "Hg": ("naive", lambda: naive.hessian_gradient(plain, images, labels, 200.0)),
            "all": ("Hg", lambda: scored(net, "Hg", images, labels)),
        }
        return [
            self._row(
                f"score, {need}",
                lambda n=need: scored(net, n, images, labels),
                other,
                name,
                scale,
                "s",
            )
            for need, (name, other) in others.items()
        ]

    def _epoch(self, net: Net, count: int) -> Callable[[], object]:
        from benchmark.config import RunConfig
        from benchmark.training.epoch import train_epoch
        from benchmark.training.problem import Problem, Subset
        from benchmark.training.state import State
        from benchmark.training.step import make_optimizer

        config = RunConfig(arch=self.arch, precision=self.command.precision, lr=1e-3)
        part = Subset(*self.images(count))
        sets = dict.fromkeys(("train", "test", "probe", "scoring"), part)
        problem = Problem(**sets, num_classes=10, augment=True, digest="")
        state = State(net, make_optimizer(net, config), {})
        return lambda: train_epoch(state, problem, config, config.lr)

    def _sgd(self, net: torch.nn.Module) -> torch.optim.SGD:
        import torch

        return torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def _row(
        self, what: str, ours: Callable, other: Callable, name: str, per: float, unit: str
    ) -> Row:
        times = alternated({"ours": ours, name: other}, self.command.repeats)
        return Row(self.arch, what, times["ours"], times[name], name, per, unit)


def scored(net: Net, need: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Score with all measures of one need."""
    from benchmark.measures import MEASURES
    from benchmark.measures._scoring import score_all

    initial = {name: net.get_submodule(name).weight.detach() for name in net.convs}
    measures = [MEASURES[name] for name in NEEDS[need]]
    score_all(net, measures, images, labels, initial=initial)


def alternated(
    contestants: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each contestant, in turn, after one call of each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            _synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(arch: str, need: str, command: Speed) -> int:
    """Bytes: the peak of a process that scores 2,560 images once, or on a GPU of what torch
    allocated there."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (arch, need, command))


def _peak(arch: str, need: str, command: Speed) -> int:
    import torch

    options = Options(device=command.device, threads=command.threads)
    options.prepare()
    bench = Bench(arch, command, options)
    scored(bench.pruned(0), need, *bench.images(SCORED))
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def show(console, rows: list[Row], memory: list[tuple[str, str, int]]) -> None:
    """Print the tables."""
    from rich.table import Table

    if rows:
        table = Table(
            "arch", "what", "ours", "compared with", "theirs", "times as fast", "(min to max)"
        )
        for row in rows:
            unit = row.unit if row.unit == "images/s" else f"s per {SCORED} images"
            table.add_row(
                row.arch, row.what, f"{row.value(row.ours):.3g} {unit}", row.other_name, f"{row.value(row.other):.3g}",
                f"{statistics.median(row.ratios):.2f}", f"{min(row.ratios):.2f} to {max(row.ratios):.2f}",
            )  # fmt: skip
        console.print(table)
    if memory:
        table = Table("arch", f"peak memory of scoring {SCORED} images", "GB")
        for arch, need, peak in memory:
            table.add_row(arch, need, f"{peak / 1e9:.2f}")
        console.print(table)


def document(
    command: Speed, options: Options, rows: list[Row], memory: list[tuple[str, str, int]]
) -> dict:
    """The numbers, with what they were measured on."""
    import torch

    return {
        "width": command.width, "precision": command.precision, "device": options.device_name(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
        "rows": [
            {"arch": row.arch, "what": row.what, "compared with": row.other_name, "unit": row.unit,
             "ours": row.value(row.ours), "theirs": row.value(row.other), "times as fast": row.ratios}
            for row in rows
        ],
        "peak memory (bytes)": [{"arch": arch, "need": need, "bytes": peak} for arch, need, peak in memory],
    }  # fmt: skip


if __name__ == "__main__":
    main()
