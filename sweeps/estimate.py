"""How long a run's epochs take here: a few timed steps of each dense net."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from benchmark import data, registry
from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.training.problem import check_fits
from benchmark.training.state import initial_net, prepared

FEW, MORE = 2, 16
"""Images of the two timed steps on a CPU, from which follows the time of a whole batch; a GPU gets
whole batches."""


def seconds_to_train(epochs: dict[RunConfig, int], options: Options) -> float:
    """Seconds that so many epochs of these dense nets take one process, without tests and cuts.

    Raises `UserError` if a data set neither declares its size nor is there to be counted.
    """
    per_image: dict[tuple, float] = {}
    sizes: dict[str, TrainSize] = {}
    seconds = 0.0
    for config, count in epochs.items():
        if config.dataset not in sizes:
            sizes[config.dataset] = train_size(config.dataset, options.data)
        size = sizes[config.dataset]
        net = (
            config.arch,
            config.width,
            config.batch_size,
            config.precision,
            size.classes,
            size.height,
            size.width,
        )
        if net not in per_image:
            check_fits(config.arch, config.width, size.classes, (size.height, size.width), FEW)
            per_image[net] = _seconds_per_image(config, size, options.torch_device())
        seconds += count * min(size.images, config.train_limit or size.images) * per_image[net]
    return seconds


class TrainSize(NamedTuple):
    """What a data set trains on."""

    images: int
    classes: int
    height: int = 32
    width: int = 32


def train_size(dataset: str, root: Path) -> TrainSize:
    """As the data set's file declares it (of images of 32x32), or counted."""
    source = registry.load("data", dataset.partition(":")[0])
    if hasattr(source, "TRAIN_IMAGES"):
        return TrainSize(source.TRAIN_IMAGES, source.CLASSES)
    images = data.load(dataset, root)
    return TrainSize(len(images.train_labels), len(images.classes), *images.train_images.shape[1:3])


def _seconds_per_image(config: RunConfig, size: TrainSize, device: torch.device) -> float:
    """Seconds of a forward and a backward pass per image.

    The update of the weights, some percent of a step, is left out: making an optimizer makes torch
    import its compiler, which takes longer than all else here.
    """
    net = prepared(initial_net(config, size.classes), device)

    def step(images: int) -> float:
        x = torch.randn(images, 3, size.height, size.width, device=device)
        y = torch.zeros(images, dtype=torch.long, device=device)
        start = _now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = net(x)
        cross_entropy(logits.float(), y).backward()
        return _now(device) - start

    batch = config.batch_size
    if device.type == "cuda":
        return min(step(batch) for _ in range(2)) / batch
    step(FEW)  # the first is slower
    few, more = step(FEW), step(MORE)
    return (few + max(more - few, 0) * (batch - FEW) / (MORE - FEW)) / batch


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
