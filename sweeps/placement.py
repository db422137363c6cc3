"""Which device each worker of this machine gets, and how many of them fit on a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.processes import in_new_process

if TYPE_CHECKING:
    import torch

BESIDE = 1 << 30
"""Bytes that a process takes on a GPU beside torch's tensors: CUDA's context and libraries, and the
images."""
SHARE = 0.9
"""Part of a GPU's free memory that runs may fill."""
CLASSES = 100
"""Of the random images: as many as any data set of the suite has."""


def placement(
    options: Options, workers: int, per_gpu: int, configs: Sequence[RunConfig] = ()
) -> list[Options]:
    """The options of each worker process: `per_gpu` of them on every GPU, or one per `threads`
    cores if there is no GPU. On MPS there is one, unless `per_gpu` or `workers` says otherwise.

    `per_gpu` 0: as many as fit, by the memory that the largest of `configs` takes when it is tried
    out, and by the number of cores. `workers` (0: as many as that) is another number of them, on
    the GPUs in turn. A device that has a number (cuda:1) is the only one. Raises `UserError` for a
    device that is not there.
    """
    devices, cores = _devices(options), os.cpu_count() or 1
    if devices == ["cpu"]:
        places = max(1, cores // options.threads)
    elif devices == ["mps"]:
        places = per_gpu or 1
    else:
        if not (workers or per_gpu):
            first = replace(options, device=devices[0])
            per_gpu = min(max(1, cores // len(devices)), fitting(configs, first))
        places = len(devices) * per_gpu
    return [replace(options, device=devices[i % len(devices)]) for i in range(workers or places)]


def fitting(configs: Sequence[RunConfig], options: Options) -> int:
    """How many runs fit on a GPU, by the memory that the largest takes when it is tried out."""
    used, free = in_new_process(memory, configs, options)
    return max(1, int(SHARE * free / used))


def _devices(options: Options) -> list[str]:
    if options.device == "cpu":  # no need to load torch
        return ["cpu"]
    device = options.torch_device()
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def memory(configs: Sequence[RunConfig], options: Options) -> tuple[int, int]:
    """Bytes of GPU memory that the largest of these runs takes, and bytes that are free."""
    import torch

    from sweeps.estimate import train_size

    device = options.torch_device()
    distinct = {(c.arch, c.width, c.batch_size, c.precision, c.dataset): c for c in configs}
    with options.applied():
        for config in distinct.values():
            size = train_size(config.dataset, options.data)
            try_out(config, device, size.height, size.width)
    used = torch.cuda.max_memory_reserved(device) + BESIDE
    torch.cuda.empty_cache()
    return used, torch.cuda.mem_get_info(device)[0]


def try_out(config: RunConfig, device: torch.device, height: int = 32, width: int = 32) -> None:
    """Do with a dense net on random images what its run does: a few steps, tests, gradients and
    Hessian products."""
    import torch

    from benchmark.flow import FLOW_BATCH, TEST_BATCH, evaluate, fitting, measure_flow
    from benchmark.training.epoch import train_epoch
    from benchmark.training.problem import Problem, Subset, check_fits
    from benchmark.training.state import fresh
    from benchmark.training.step import EAGER
    from benchmark.training.steps import finished

    config = replace(config, init="")  # weights of another number of classes would not fit
    check_fits(config.arch, config.width, CLASSES, (height, width), 2)
    count = config.batch_size * (EAGER + 1)
    images = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, device=device)
    part = Subset(images, torch.arange(count, device=device) % CLASSES)
    state = fresh(config, CLASSES, device)
    problem = Problem(
        **dict.fromkeys(("train", "test", "probe", "scoring"), part),
        num_classes=CLASSES,
        augment=True,
        digest="",
    )
    finished(train_epoch(state, problem, config, config.lr))
    for probe, batch in ((measure_flow, FLOW_BATCH), (evaluate, TEST_BATCH)):
        again = torch.arange(fitting(batch, images) if device.type == "cuda" else count) % count
        probe(state.model, images[again], part.labels[again], config.temperature)
