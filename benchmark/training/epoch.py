"""One epoch of training, and the row that is logged after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from benchmark import data
from benchmark.config import RunConfig, stream_seed
from benchmark.cost import cost
from benchmark.data._batches import balanced, epoch_batches
from benchmark.errors import UserError, is_out_of_memory
from benchmark.flow import evaluate, measure_flow, tf32, with_statistics_of
from benchmark.models import build
from benchmark.pruning.ranks import movement, squared_norms
from benchmark.record import HISTORY_KEYS, MOVED
from benchmark.schedule import schedule
from benchmark.training.state import State
from benchmark.training.step import Step, kind


@dataclass(frozen=True)
class Subset:
    """Images uint8 [N, H, W, 3] and labels int64 [N] on the device."""

    images: torch.Tensor
    labels: torch.Tensor

    def part(self, indices: torch.Tensor) -> Subset:
        """The images with these indices."""
        indices = indices.to(self.labels.device)
        return Subset(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Problem:
    """The data of a run on its device."""

    train: Subset
    test: Subset
    probe: Subset
    """Fixed training images on which the gradient flow is measured, the same for every seed."""
    scoring: Subset
    """The training images that cuts are decided on, drawn from those that are not in the probe
    set."""
    num_classes: int
    augment: bool
    digest: str
    """Of the data set (see `benchmark.data.digest`)."""
    quick_test: Subset | None = None
    """The part of the test set that is tested on before the last epoch (None: all of it)."""
    overlap: int = 0
    """Images of the scoring set that are in the probe set too, because their class has no others
    left."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.train.images.shape[1:3])

    @property
    def samples(self) -> dict[str, int]:
        """Images of each set, for the record."""
        sets = {
            "train": self.train,
            "test": self.test,
            "probe": self.probe,
            "scoring": self.scoring,
        }
        return {name: len(subset.labels) for name, subset in sets.items()} | {
            "overlap": self.overlap
        }


def make_problem(config: RunConfig, root: Path, device: torch.device) -> Problem:
    """Load the data of a run and draw its subsets, all class-balanced; the probe set first, by the
    data set alone."""
    train, test, num_classes, augment, digest = _on_device(
        config.dataset, root, device, config.train_limit, data.state(config.dataset, root)
    )
    last_batch = len(train.labels) % config.batch_size or config.batch_size
    check_fits(config.arch, config.width, num_classes, train.images.shape[1:3], min(last_batch, 2))
    unseeded = RunConfig(dataset=config.dataset)
    probe = balanced(train.labels, config.probe_samples, stream_seed("probe", unseeded, "dataset"))
    scoring = balanced(
        train.labels, config.score_samples, stream_seed("scoring", config, "dataset"), last=probe
    )
    quick_test = None
    if config.test_limit:
        quick_test = test.part(
            balanced(test.labels, config.test_limit, stream_seed("test", unseeded, "dataset"))
        )
    overlap = int(torch.isin(scoring, probe).sum())
    return Problem(
        train,
        test,
        train.part(probe),
        train.part(scoring),
        num_classes,
        augment,
        digest,
        quick_test=quick_test,
        overlap=overlap,
    )


@lru_cache
def check_fits(
    arch: str, width: float, num_classes: int, size: tuple[int, int], batch: int
) -> None:
    """Raise `UserError` for images that the net cannot be trained on, in a smallest batch of so
    many."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net = build(arch, num_classes, width)
        try:
            net(torch.zeros(batch, 3, *size))
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            height, width = size
            raise UserError(
                f"{arch} cannot be trained on images of {width}x{height} in a batch of {batch} ({error})"
            ) from None


@lru_cache(maxsize=2)
def _on_device(
    dataset: str, root: Path, device: torch.device, limit: int, state: str
) -> tuple[Subset, Subset, int, bool, str]:
    """Train and test set, classes, whether to augment, digest; loaded anew when the files have
    another `state`."""
    images = data.load(dataset, root)
    digest = data.digest(dataset, root, images)
    train, test = (
        Subset(torch.as_tensor(x).to(device), torch.as_tensor(y).to(device))
        for x, y in (
            (images.train_images, images.train_labels),
            (images.test_images, images.test_labels),
        )
    )
    if limit:
        train = train.part(
            balanced(
                train.labels, limit, stream_seed("limit", RunConfig(dataset=dataset), "dataset")
            )
        )
    return train, test, len(images.classes), images.augment, digest


def train_epoch(state: State, problem: Problem, config: RunConfig, lr: float) -> dict[str, float]:
    """Train one epoch in place; returns the `train/*`, `lr` and `time/images_per_second` part of
    its row."""
    images, labels = problem.train.images, problem.train.labels
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    batches = epoch_batches(
        images,
        labels,
        batch_size=config.batch_size,
        order_seed=stream_seed("order", config, "dataset", epoch=state.epoch),
        augment_seed=stream_seed("augment", config, "dataset", epoch=state.epoch)
        if problem.augment
        else None,
    )
    step = _step(state, config, images.device)
    start = time.perf_counter()
    state.model.train()
    with tf32(config.precision == "tf32"):
        for x, y in batches:
            step(x, y)
        mean_loss, accuracy = float(step.loss_sum) / len(labels), float(step.correct) / len(labels)
    seconds = time.perf_counter() - start
    state.seconds += seconds
    return {
        "train/loss": mean_loss,
        "train/accuracy": accuracy,
        "lr": lr,
        "time/images_per_second": len(labels) / seconds,
    }


def _step(state: State, config: RunConfig, device: torch.device) -> Step:
    """The step of the epoch before, with its sums at 0, or a new one if the net or the optimizer is
    another since."""
    step = state.step
    if step is None or step.model is not state.model or step.optimizer is not state.optimizer:
        step = state.step = kind(device)(state.model, state.optimizer, config)
    step.loss_sum.zero_()
    step.correct.zero_()
    return step


def advance(
    state: State, problem: Problem, config: RunConfig, lr: float, *, flow_every: int
) -> dict:
    """Train one epoch in place; returns the row that it added to the history.

    After a cut it says how well each recorded score told how far its filter would move
    (`moved/<measure>`).
    """
    norms = squared_norms(state.model) if state.ranked else {}
    row = train_epoch(state, problem, config, lr)
    moved = movement(state.ranked, state.model, norms)
    row |= {f"{MOVED}{measure}": value for measure, value in moved.items()}
    state.ranked = {}
    return log_epoch(state, problem, config, row, flow=(state.epoch + 1) % flow_every == 0)


def log_epoch(
    state: State, problem: Problem, config: RunConfig, trained: dict, *, flow: bool
) -> dict:
    """Complete the row of an epoch: test, cost, and (if `flow`) the gradient flow on the probe set.

    The flow is that of the net with batch-norm statistics of the probe set itself.
    """
    start, epoch = time.perf_counter(), len(state.history)
    test = problem.test if epoch == schedule(config).total else problem.quick_test or problem.test
    loss, accuracy = evaluate(state.model, test.images, test.labels, config.temperature)
    row = trained | {
        "epoch": epoch,
        "test/loss": loss,
        "test/accuracy": accuracy,
        **cost(state.model, problem.size),
    }
    if flow:
        model = with_statistics_of(state.model, problem.probe.images)
        numbers = measure_flow(
            model, problem.probe.images, problem.probe.labels, config.temperature
        ).numbers
        row |= {
            f"flow/{key}": value
            for key, value in numbers.items()
            if key not in ("loss", "accuracy")
        }
    state.seconds += time.perf_counter() - start
    moved = {key: value for key, value in row.items() if key.startswith(MOVED)}
    row = {key: row.get(key) for key in HISTORY_KEYS} | {"time/seconds": state.seconds} | moved
    state.history.append(row)
    return row
