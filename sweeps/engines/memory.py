"""How many runs fit on a GPU: what one takes is measured by trying it out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.config import RunConfig
from benchmark.options import Options

if TYPE_CHECKING:
    import torch

BESIDE = 1 << 30
"""Bytes that a process takes on a GPU beside torch's tensors: CUDA's context and libraries, and the
images."""
SHARE = 0.9
"""How much of a GPU's free memory is planned for runs."""
CLASSES = 100
"""Of the random images: as many as any data set of the suite has."""


def fitting(used: int, free: int) -> int:
    """How many processes that take `used` bytes each fit into `free` bytes; at least one."""
    return max(1, int(SHARE * free / used))


def measured(configs: Sequence[RunConfig], options: Options) -> tuple[int, int]:
    """Bytes that the largest of these nets takes on its GPU to be trained, tested and scored, and
    bytes that are free.

    Measured in a process of its own, which gives all of it back.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (list(configs), options))


def _measured(configs: list[RunConfig], options: Options) -> tuple[int, int]:
    import torch

    from sweeps.estimate import train_size

    device = options.torch_device()
    for config in {
        (c.arch, c.width, c.batch_size, c.precision, c.dataset): c for c in configs
    }.values():
        size = train_size(config.dataset, options.data)
        try_out(config, device, size.height, size.width)
    used = torch.cuda.max_memory_reserved(device) + BESIDE
    torch.cuda.empty_cache()
    return used, torch.cuda.mem_get_info(device)[0]


def try_out(config: RunConfig, device: torch.device, height: int = 32, width: int = 32) -> None:
    """Do with a dense net on random images what its run does: a few steps, tests, gradients and
    Hessian products."""
    import torch

    from benchmark.flow import evaluate, measure_flow
    from benchmark.training.epoch import train_epoch
    from benchmark.training.problem import Problem, Subset, check_fits
    from benchmark.training.state import fresh
    from benchmark.training.step import EAGER

    check_fits(config.arch, config.width, CLASSES, (height, width), 2)
    count = config.batch_size * (EAGER + 1)
    images = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, device=device)
    part = Subset(images, torch.arange(count, device=device) % CLASSES)
    state = fresh(config, CLASSES, device)
    sets = dict.fromkeys(("train", "test", "probe", "scoring"), part)
    problem = Problem(**sets, num_classes=CLASSES, augment=True, digest="")
    train_epoch(state, problem, config, config.lr)
    for probe in (measure_flow, evaluate):
        probe(state.model, part.images, part.labels, config.temperature)
