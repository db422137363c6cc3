"""Which device each worker of this machine gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from benchmark.config import RunConfig
from benchmark.options import Options
from sweeps.engines import memory


def placement(
    options: Options, workers: int, per_gpu: int, configs: Sequence[RunConfig] = ()
) -> list[Options]:
    """The options of each worker process: `per_gpu` of them on every GPU, or without any one per
    `threads` cores.

    `per_gpu` 0: as many as fit, by the memory that the largest of `configs` is measured to take,
    and by the number of cores. `workers` (0: as many as that) is another number of them, on the
    GPUs in turn. A device that was asked for by its number is the only one. Raises `UserError` for
    a device that is not there.
    """
    devices = _devices(options)
    if devices != ["cpu"] and not (workers or per_gpu):
        cores = max(1, (os.cpu_count() or 1) // len(devices))
        per_gpu = min(
            cores, memory.fitting(*memory.measured(configs, replace(options, device=devices[0])))
        )
    places = (
        len(devices) * per_gpu
        if devices != ["cpu"]
        else max(1, (os.cpu_count() or 1) // options.threads)
    )
    return [replace(options, device=devices[i % len(devices)]) for i in range(workers or places)]


def _devices(options: Options) -> list[str]:
    if options.device == "cpu":  # no need to load torch
        return ["cpu"]
    device = options.torch_device()
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
