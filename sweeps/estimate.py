"""How long a run's epochs take here: a few timed steps of each dense net."""

from __future__ import annotations

import time

import torch
from torch.nn.functional import cross_entropy

from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.state import initial_net, make_optimizer, prepared
from benchmark.train import make_problem

STEPS = 3
IMAGES = 32


def seconds_per_epoch(configs: list[RunConfig], options: Options) -> dict[str, float]:
    """{cell of the dense control: seconds of one epoch}, without tests and cuts, with one worker's share of threads."""
    rates: dict[str, float] = {}
    for config in configs:
        cell = config.dense().cell
        if cell not in rates:
            problem = make_problem(config, options.data, options.torch_device())
            rates[cell] = _seconds_per_image(config, problem.num_classes, options) * len(problem.train.labels)
    return rates


def _seconds_per_image(config: RunConfig, num_classes: int, options: Options) -> float:
    device = options.torch_device()
    net = prepared(initial_net(config, num_classes), device)
    optimizer = make_optimizer(net, config)
    images = min(IMAGES, config.batch_size)
    x, y = torch.randn(images, 3, 32, 32, device=device), torch.zeros(images, dtype=torch.long, device=device)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / images
