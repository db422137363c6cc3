"""How long the epochs of a grid take on this machine, from a few timed steps of each dense net."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from benchmark import data, registry
from benchmark.config import RunConfig
from benchmark.cost import dense_cost
from benchmark.data._batches import Epoch
from benchmark.devices import wait
from benchmark.flow import tf32
from benchmark.models import Net
from benchmark.options import Options
from benchmark.training.problem import check_fits
from benchmark.training.state import initial_net, prepared
from benchmark.training.step import EAGER, make_optimizer, step_kind

FEW, MORE = 2, 16
"""Images of the two steps that are timed on a CPU, from which the time of a whole batch is
extrapolated. A GPU is timed with whole batches."""
REPLAYED = 50
"""Steps that are timed on a GPU."""


def to_train(epochs: dict[RunConfig, int], options: Options) -> tuple[float, float]:
    """Seconds that one process needs to train these dense nets, without tests and cuts, and the
    multiplications and additions of it: a backward pass has twice those of a forward pass.

    Raises `UserError` if a data set neither declares its size nor is there to be counted.
    """
    size_of = cache(lambda dataset: train_size(dataset, options.data))
    per_image: dict[tuple, tuple[float, int]] = {}
    seconds = operations = 0.0
    for config, count in epochs.items():
        size = size_of(config.dataset)
        pixels = (size.height, size.width)
        net = (config.arch, config.width, config.batch_size, config.precision, *size[1:])
        if net not in per_image:
            check_fits(config.arch, config.width, size.classes, pixels, FEW)
            macs = dense_cost(initial_net(replace(config, init=""), size.classes), pixels)["macs"]
            per_image[net] = seconds_per_image(config, size, options.torch_device()), macs
        images = count * min(size.images, config.train_limit or size.images)
        seconds += images * per_image[net][0]
        operations += images * per_image[net][1] * 3 * 2
    return seconds, operations


class TrainSize(NamedTuple):
    """Size of the training part of a data set."""

    images: int
    classes: int
    height: int = 32
    width: int = 32


def train_size(dataset: str, root: Path) -> TrainSize:
    """The size that the file of the data set declares (for images of 32x32); if none, counted."""
    source = registry.load("data", registry.split(dataset)[0])
    if hasattr(source, "TRAIN_IMAGES"):
        return TrainSize(source.TRAIN_IMAGES, source.CLASSES)
    images = data.load(dataset, root)
    return TrainSize(len(images.train_labels), len(images.classes), *images.train_images.shape[1:3])


def seconds_per_image(config: RunConfig, size: TrainSize, device: torch.device) -> float:
    """Seconds of a training step per image.

    A CPU is timed without the update of the weights, which is some percent of a step.
    """
    drawn = initial_net(replace(config, init=""), size.classes)
    net = prepared(drawn, device)
    if device.type == "cuda":
        return seconds_of_steps(net, config, size, device)

    def step(images: int) -> float:
        x = torch.randn(images, 3, size.height, size.width, device=device)
        y = torch.zeros(images, dtype=torch.long, device=device)
        start = now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = net(x)
        cross_entropy(logits.float(), y).backward()
        return now(device) - start

    batch = config.batch_size
    step(FEW)  # the first is slower
    few, more = step(FEW), step(MORE)
    return (few + max(more - few, 0) * (batch - FEW) / (MORE - FEW)) / batch


def seconds_of_steps(net: Net, config: RunConfig, size: TrainSize, device: torch.device) -> float:
    """Of steps as a run takes them, replayed after some eager ones."""
    batch, first = config.batch_size, EAGER + 2
    images = torch.zeros(batch, size.height, size.width, 3, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    order = torch.arange((first + REPLAYED) * batch, device=device) % batch
    taken = step_kind(device)(net, make_optimizer(net, config), config).taken(
        Epoch(images, labels, (order,))
    )
    with tf32(config.precision == "tf32"):
        for _ in islice(taken, first):
            pass
        start = now(device)
        for _ in taken:
            pass
        return (now(device) - start) / REPLAYED / batch


def now(device: torch.device) -> float:
    """Seconds on a clock, when the device has done all its work."""
    wait(device)
    return time.perf_counter()
