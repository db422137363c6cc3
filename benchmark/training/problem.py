"""The data of a run, on its device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from benchmark import data
from benchmark.config import RunConfig, stream_seed
from benchmark.data._batches import balanced
from benchmark.errors import UserError, is_out_of_memory, require
from benchmark.models import build


@dataclass(frozen=True)
class Subset:
    """Images uint8 [N, H, W, 3] and labels int64 [N] on the device."""

    images: torch.Tensor
    labels: torch.Tensor

    def part(self, indices: torch.Tensor) -> Subset:
        """The images with these indices."""
        indices = indices.to(self.labels.device)
        return Subset(self.images[indices], self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A data set on the device."""

    train: Subset
    test: Subset
    num_classes: int
    classes: tuple[str, ...] = ()
    """Their names."""
    augment: bool
    """Whether training uses random crops and flips."""
    digest: str
    """Of the data set (see `benchmark.data.digest`)."""


@dataclass(frozen=True, kw_only=True)
class Problem(Loaded):
    """What a run trains, tests, measures and scores on."""

    probe: Subset
    """Fixed training images on which the gradient flow is measured, the same for every seed."""
    scoring: Subset
    """The training images that cuts are decided on, drawn from those that are not in the probe
    set."""
    quick_test: Subset | None = None
    """The part of the test set that is used before the last epoch (None: all of it)."""
    overlap: int = 0
    """Images of the scoring set that are in the probe set too, because their class has no others
    left."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.train.images.shape[1:3])

    @property
    def samples(self) -> dict[str, int]:
        """Number of images of each set, for the record."""
        sets = ("train", "test", "probe", "scoring")
        return {name: len(getattr(self, name).labels) for name in sets} | {"overlap": self.overlap}


def make_problem(config: RunConfig, root: Path, device: torch.device) -> Problem:
    """Load the data of a run from the folder `root` and draw its subsets, all class-balanced.

    Raises `UserError` for data that are missing or broken, or that the net cannot be trained on.
    """
    loaded = _loaded(
        config.dataset, root, device, config.train_limit, data.state(config.dataset, root)
    )
    train, test, unseeded = loaded.train, loaded.test, RunConfig(dataset=config.dataset)
    last_batch = len(train.labels) % config.batch_size or config.batch_size
    size = tuple(train.images.shape[1:3])
    check_fits(config.arch, config.width, loaded.num_classes, size, min(last_batch, 2))
    probe = balanced(train.labels, config.probe_samples, stream_seed("probe", unseeded, "dataset"))
    scoring = balanced(
        train.labels, config.score_samples, stream_seed("scoring", config, "dataset"), last=probe
    )
    quick_test = None
    if config.test_limit:
        seed = stream_seed("test", unseeded, "dataset")
        quick_test = test.part(balanced(test.labels, config.test_limit, seed))
    return Problem(
        **vars(loaded),
        probe=train.part(probe),
        scoring=train.part(scoring),
        quick_test=quick_test,
        overlap=int(torch.isin(scoring, probe).sum()),
    )


@lru_cache
def check_fits(
    arch: str, width: float, num_classes: int, size: tuple[int, int], batch: int
) -> None:
    """Raise `UserError` if the net cannot be trained on `batch` images of this height and width.

    batch: the number of images in the smallest batch, at most 2.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net = build(arch, num_classes, width)
        try:
            shape = list(net(torch.zeros(batch, 3, *size)).shape)
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"{arch} cannot be trained on images of {size[1]}x{size[0]} in a batch of {batch} "
                f"({error})"
            ) from None
        require(
            shape == [batch, num_classes], f"outputs of {arch}", shape, f"[{batch}, {num_classes}]"
        )


@lru_cache(maxsize=2)
def _loaded(dataset: str, root: Path, device: torch.device, limit: int, state: str) -> Loaded:
    """The data set, of whose training images `limit` are used (0: all). It is loaded anew when its
    files have another `state`."""
    images = data.load(dataset, root)
    train, test = (
        Subset(torch.as_tensor(x).to(device), torch.as_tensor(y).to(device))
        for x, y in (
            (images.train_images, images.train_labels),
            (images.test_images, images.test_labels),
        )
    )
    if limit:
        seed = stream_seed("limit", RunConfig(dataset=dataset), "dataset")
        train = train.part(balanced(train.labels, limit, seed))
    return Loaded(
        train=train,
        test=test,
        num_classes=len(images.classes),
        classes=images.classes,
        augment=images.augment,
        digest=data.digest(dataset, root, images),
    )
