"""What `benchmark.perf.speed` times, in turn with another way: training, evaluation, scoring, cut
probes and single measures."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch

from benchmark import data, flow
from benchmark.config import DEFAULTS, RunConfig
from benchmark.measures import MEASURES, score
from benchmark.measures._scoring import score_all
from benchmark.models import Net, build
from benchmark.options import Options
from benchmark.perf import naive
from benchmark.pruning import compact, select
from benchmark.training.cut import scorable
from benchmark.training.epoch import train_epoch
from benchmark.training.probes import NO_PROBE, probe
from benchmark.training.problem import Problem, Subset
from benchmark.training.state import State, fresh, initial_weights, prepared
from benchmark.training.step import make_optimizer
from benchmark.training.steps import finished

if TYPE_CHECKING:
    from benchmark.perf.speed import Speed

TWELVE = (
    "magnitude", "l1", "bn_scale", "loss", "taylor", "loss_biased", "loss_biased_init", "fisher",
    "fisher_bn", "grasp", "grad_preservation", "random",
)  # fmt: skip
NEEDS = {"none": ("magnitude",), "g": ("loss",), "Hg": ("grasp",), "all": TWELVE}
"""{what is computed: measures that need it}"""
SCORED = DEFAULTS["score_samples"]
"""Images that a cut is decided on, in the paper and by default: seconds are given for so many."""
BATCH = 128


def row(
    arch: str, what: str, ours: list[float], name: str, theirs: list[float], per: float, unit: str
) -> dict:
    """One comparison, from the seconds of each repetition, ours and theirs measured in turn.

    The numbers are medians: a rate of `per` images, or seconds times `per`. `times as fast` has a
    ratio for each repetition.
    """

    def value(seconds: list[float]) -> float:
        return per / median(seconds) if unit == "images/s" else per * median(seconds)

    return {
        "arch": arch,
        "what": what,
        "compared with": name,
        "unit": unit,
        "ours": value(ours),
        "theirs": value(theirs),
        "times as fast": [b / a for a, b in zip(ours, theirs, strict=True)],
    }


class Bench:
    """The contests of one architecture."""

    def __init__(self, arch: str, command: Speed, options: Options) -> None:
        self.arch, self.command, self.device = arch, command, options.torch_device()
        digits = data.load("digits", options.data)
        self.digits = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
        torch.manual_seed(0)
        self.net = build(arch, width=command.width).to(self.device)

    def images(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """So many digits on the device, repeated as often as needed: images, labels."""
        chosen = torch.arange(count) % len(self.digits[1])
        return tuple(part[chosen].to(self.device) for part in self.digits)

    def pruned(self, ratio: float) -> Net:
        """The net without this fraction of its filters, channels last in memory."""
        net = self.net
        if ratio:
            net = compact(net, select(net, score(net, "magnitude", *self.images(1)), ratio))
        return prepared(net, self.device)

    def train(self) -> list[dict]:
        """The dense net against the naive loop, and pruned nets against the dense one."""
        count = BATCH * self.command.steps
        rows = []
        for ratio in self.command.ratios:
            ours = self._epoch(self.pruned(ratio), count)
            other = self._epoch(self.pruned(0), count) if ratio else self._naive_epoch(count)
            what, name = f"train, {ratio:.0%} pruned", "dense" if ratio else "naive"
            rows.append(self._row(what, ours, name, other, count, "images/s"))
        return rows

    def evaluate(self) -> list[dict]:
        """Evaluation against the naive loop."""
        images, labels = self.images(self.command.images)
        net, plain = self.pruned(0), naive.plain(self.net)
        batches = naive.loader(images, labels, BATCH, train=False)
        ours = partial(flow.evaluate, net, images, labels, 5.0)
        other = partial(naive.evaluate, plain, batches)
        return [self._row("evaluate", ours, "naive", other, len(images), "images/s")]

    def score(self) -> list[dict]:
        """g and Hg against the naive passes, and twelve measures in one call against `grasp`
        alone."""
        images, labels = self.images(self.command.images)
        net, plain = self.pruned(0), naive.plain(self.net)
        ours = {need: partial(scored, net, need, images, labels) for need in ("g", "Hg", "all")}
        others = {
            "g": ("naive", partial(naive.gradient, plain, images, labels, 5.0)),
            "Hg": ("naive", partial(naive.hessian_gradient, plain, images, labels, 200.0)),
            "all": ("Hg", ours["Hg"]),
        }
        return [
            self._row(f"score, {need}", ours[need], name, other, SCORED / len(images), "s")
            for need, (name, other) in others.items()
        ]

    def probe(self) -> dict:
        """A whole cut probe against the scores of all its measures, which it computes first.

        The probe set has as large a share of the images of the scoring set as by default.
        """
        count = self.command.images
        seen = max(1, count * DEFAULTS["probe_samples"] // SCORED)
        config = RunConfig(arch=self.arch, width=self.command.width, measure="none")
        problem = self._problem(self.images(count), self.images(seen))
        state = fresh(config, problem.num_classes, self.device)
        measures = [measure for measure in scorable(state) if measure.name not in NO_PROBE]
        scores = partial(
            score_all, state.model, measures, *self.images(count),
            initial=initial_weights(config, state),
        )  # fmt: skip

        def whole() -> None:
            finished(probe(state, problem, config))

        seconds, scoring = alternated((whole, scores), self.command.repeats)
        return {
            "arch": self.arch,
            "seconds": median(seconds) * SCORED / count,
            "scoring seconds": median(scoring) * SCORED / count,
            "times scoring": [a / b for a, b in zip(seconds, scoring, strict=True)],
        }

    def measures(self) -> list[dict]:
        """Seconds to score by each measure alone, in turn."""
        images = self.images(self.command.images)
        config = RunConfig(arch=self.arch, width=self.command.width, measure="none")
        state = fresh(config, 10, self.device)
        initial = initial_weights(config, state)
        names = [name for name in MEASURES if name not in ("oracle", "none")]
        scores = [
            partial(score_all, state.model, [MEASURES[name]], *images, initial=initial)
            for name in names
        ]
        seconds = alternated(scores, self.command.repeats)
        scale = SCORED / self.command.images
        return [
            {"arch": self.arch, "measure": name, "seconds": [scale * s for s in times]}
            for name, times in zip(names, seconds, strict=True)
        ]

    def _epoch(self, net: Net, count: int) -> Callable[[], object]:
        config = RunConfig(arch=self.arch, precision=self.command.precision, lr=1e-3)
        problem = self._problem(self.images(count), self.images(count))
        state = State(net, make_optimizer(net, config), {})
        return lambda: finished(train_epoch(state, problem, config, config.lr))

    def _problem(
        self, images: tuple[torch.Tensor, torch.Tensor], seen: tuple[torch.Tensor, torch.Tensor]
    ) -> Problem:
        """All sets are of these images, but for the probe set."""
        sets = dict.fromkeys(("train", "test", "scoring"), Subset(*images))
        return Problem(**sets, probe=Subset(*seen), num_classes=10, augment=True, digest="")

    def _naive_epoch(self, count: int) -> Callable[[], object]:
        net = naive.plain(self.net)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        batches = naive.loader(*self.images(count), BATCH, train=True)
        return partial(naive.train, net, optimizer, batches, 5.0)

    def _row(
        self, what: str, ours: Callable, name: str, other: Callable, per: float, unit: str
    ) -> dict:
        seconds, theirs = alternated((ours, other), self.command.repeats)
        return row(self.arch, what, seconds, name, theirs, per, unit)


def scored(net: Net, need: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Score with all measures of one need."""
    initial = {name: net.get_submodule(name).weight.detach() for name in net.convs}
    measures = [MEASURES[name] for name in NEEDS[need]]
    score_all(net, measures, images, labels, initial=initial)


def alternated(contestants: tuple[Callable[[], object], ...], repeats: int) -> list[list[float]]:
    """Seconds of each contestant [repeats], in turn, after one call of each to warm up."""
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(repeats + 1):
        for contestant, seconds in zip(contestants, times, strict=True):
            start = time.perf_counter()
            contestant()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds.append(time.perf_counter() - start)
    return times


def peak_memory(arch: str, need: str, command: Speed) -> int:
    """Bytes: the peak of this process when it scores 2,560 images once, or on a GPU of what torch
    allocated there."""
    options = Options(device=command.device, threads=command.threads)
    options.prepare()
    bench = Bench(arch, command, options)
    scored(bench.pruned(0), need, *bench.images(SCORED))
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
