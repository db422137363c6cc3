"""The state of a run between two epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from benchmark import initial
from benchmark.config import RunConfig, stream_seed
from benchmark.errors import UserError
from benchmark.models import LAYOUT, Net, Plan, build
from benchmark.models._weights import digest, fill, read_weights
from benchmark.pruning import Shrunk
from benchmark.training.step import Step, make_optimizer


@dataclass
class State:
    """Where a run is. It holds no random state, because all random streams are functions of the
    seed and the epoch."""

    model: Net
    optimizer: torch.optim.Optimizer
    origin: dict[str, torch.Tensor]
    """{stream: index of each channel in the original net}"""
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    """The rows of all epochs so far, row 0 included."""
    cuts: list[dict] = field(default_factory=list)
    """The rows of all cuts so far."""
    eager: str = ""
    """Why steps on a GPU were taken eagerly, if some were (see `ReplayedStep`)."""
    accumulated: dict[str, torch.Tensor] | None = None
    """{conv: sum over the steps of the norms of its filters' gradients, [filters]}, if the run's
    measure needs it."""
    cost: dict[str, int] | None = None
    """The cost of `model`, once it is known; not saved."""
    step: Step | None = None
    """The step of the epochs since the last cut; not saved."""

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return max(len(self.history) - 1, 0)


def fresh(
    config: RunConfig, num_classes: int, device: torch.device, *, accumulates: bool = False
) -> State:
    """The state before training. Random initial weights depend on (arch, width, data set, seed)
    alone. accumulates: whether the norms of gradients are summed up in training."""
    model = prepared(initial_net(config, num_classes), device)
    origin = {stream: torch.arange(model.channels[stream]) for stream in model.writers}
    accumulated = no_gradients(model) if accumulates else None
    return State(model, make_optimizer(model, config), origin, accumulated=accumulated)


def no_gradients(model: Net) -> dict[str, torch.Tensor]:
    """`State.accumulated` before the first step."""
    return {
        name: torch.zeros_like(live, dtype=torch.float32) for name, live in model.masks().items()
    }


def initial_net(
    config: RunConfig, num_classes: int, plan: Plan | None = None, salt: str = "init"
) -> Net:
    """A net as the run begins: with torch's default initialisation, drawn from a named stream of
    the run, or with the weights that `init` names.

    With a plan it is always drawn. salt: the name of the stream. Raises `UserError` for weights
    that are not there, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(salt, config, "arch", "width", "dataset"))
        net = build(config.arch, num_classes, config.width, plan)
    if config.init and plan is None:
        path = initial.find(config.init)
        fill(net, _weights(path, config.init), initial.what(path), config.arch)
    return net


@lru_cache(maxsize=1)
def _weights(path: Path, expected: str) -> dict[str, torch.Tensor]:
    weights = read_weights(path, initial.what(path))
    if (now := digest(weights)) != expected:
        raise UserError(
            f"{initial.what(path)} has changed: its digest is {now}, and the run starts from "
            f"{expected}"
        )
    return weights


def reinitialised(config: RunConfig, model: Net, round: int) -> Net:
    """The newly initialised net of the shape of `model` with which the ablation `reinit` continues
    after cut number `round`."""
    plan = model.plan | model.written
    return initial_net(config, model.num_classes, plan, salt=f"reinit {round}")


def initial_weights(config: RunConfig, state: State) -> dict[str, torch.Tensor]:
    """{conv name: the weights that the filters of `state.model` had at their (last)
    initialisation}"""
    if config.ablation == "reinit" and state.cuts:
        net = reinitialised(config, state.model, len(state.cuts))
        return {name: net.get_submodule(name).weight.detach() for name in net.convs}
    net = initial_net(config, state.model.num_classes)
    weights = {}
    for name, conv in net.convs.items():
        filters = state.origin[conv.writes][state.model.places(name).cpu()]
        weights[name] = net.get_submodule(name).weight.detach()[filters]
        if not conv.depthwise:
            weights[name] = weights[name][:, net.positions(conv.reads, state.origin)]
    return weights


def prepared(model: Net, device: torch.device) -> Net:
    """The net on its device, in the layout that is fast there."""
    return model.to(device).to(memory_format=LAYOUT)


def sent(net: Net, device: torch.device) -> Net:
    """A net of the CPU on another device, without waiting after each of its tensors."""
    if device.type == "cuda":
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.data = tensor.data.pin_memory()
    return net.to(device, non_blocking=True)


def carry_momentum(state: State, shrunk: Shrunk, optimizer: torch.optim.Optimizer) -> None:
    """Give `optimizer`, of `shrunk.net`, the part of the momentum of `state` that remains after the
    cut; masked filters have none."""
    for (name, old), new in zip(
        state.model.named_parameters(), shrunk.net.parameters(), strict=True
    ):
        if momentum := state.optimizer.state.get(old):
            kept = shrunk.part(name, momentum["momentum_buffer"])
            optimizer.state[new]["momentum_buffer"] = torch.empty_like(new).copy_(kept)
    for name, mask in shrunk.net.masks().items():
        for parameter in shrunk.net.filter_parameters(name):
            if momentum := optimizer.state.get(parameter):
                momentum["momentum_buffer"][~mask] = 0
