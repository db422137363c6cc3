"""The identities of gradient flow, checked on gradient descent at falling step sizes, in float64.

Under dtheta/dt = -g: dL/dt = -|g|^2, d|theta|^2/dt = -2 theta.g, d|g|^2/dt = -2 g.Hg, and for the
weights w of each filter d|w|^2/dt = -2 w.g (Lubana & Dick, ICLR 2021, section 3). All of this holds
in evaluation mode, with batch-norm statistics that are held. In training mode the length of a
filter does not matter to the net: w.g is 0, and SGD changes |w|^2 by the square of its step and by
weight decay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.flow import Flow, Vectors, by_filter, evaluate, measure_flow, parameters
from benchmark.models import Net
from benchmark.training.problem import Subset

RATES = {"weight_norm_sq": "theta_g", "grad_norm_sq": "g_hg"}
"""Quantities whose rate of change is -2 times another one."""
QUANTITIES = ("loss", *RATES)
ROUNDING = 1e-12
"""Relative difference of two numbers that may be equal but for rounding."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Normalised images [B, 3, H, W] and labels [B]."""


@dataclass(frozen=True)
class Followed:
    """Gradient descent from one net, over `time` in `steps` equal steps.

    Errors are relative to the change: |change - predicted| / |change|; for all filters
    together the root mean square of the errors over that of the changes.
    """

    time: float
    steps: int
    change: dict[str, float]
    """What each of `QUANTITIES` changed by."""
    predicted: dict[str, float]
    """The sum, over the steps, of the step size times the rate at which it should change."""
    error: dict[str, float]
    """Of each of `QUANTITIES`, and of the squared norms of all filters (`filter_norm_sq`)."""
    kinks: int
    """Inputs of rectifiers whose sign differs between start and end, and max-pools that choose
    another pixel, over all images. There g jumps, which Hg does not see."""


def follow(
    net: Net, seen: Subset, temperature: float, plan: Sequence[tuple[float, int]]
) -> tuple[Flow, list[Followed]]:
    """The flow quantities of a net in float64, and gradient descent from it for each (time, steps)
    of `plan`, in evaluation mode.

    The net has the statistics that are to be held (`flow.with_statistics_of`), and is left as it
    is.
    """
    net = copy.deepcopy(net).double()
    start, pieces = _flow(net, seen, temperature), _pieces(net, seen)
    return start, [
        _followed(copy.deepcopy(net), start, pieces, seen, temperature, *times) for times in plan
    ]


def filter_products(net: Net, vectors: Vectors) -> torch.Tensor:
    """The inner product of weights and a vector for each filter, in the order of `net.convs`."""
    return torch.cat(list(by_filter(net, vectors).values()))


def _followed(
    net: Net,
    start: Flow,
    pieces: Pieces,
    seen: Subset,
    temperature: float,
    time: float,
    steps: int,
) -> Followed:
    step, now = time / steps, start
    predicted, of_filters = dict.fromkeys(QUANTITIES, 0.0), torch.zeros(())
    before = {name: p.detach().clone() for name, p in parameters(net).items()}
    for taken in range(steps):
        now = _flow(net, seen, temperature) if taken else start
        predicted["loss"] -= step * now.numbers["grad_norm"] ** 2
        for quantity, rate in RATES.items():
            predicted[quantity] -= 2 * step * now.numbers[rate]
        of_filters = of_filters - 2 * step * filter_products(net, now.g)
        with torch.no_grad():
            for name, parameter in parameters(net).items():
                parameter.sub_(now.g[name], alpha=step)
    end = _flow(net, seen, temperature, second_order=False).numbers
    # |b|^2 - |a|^2 as (b - a).(b + a), which loses no digits
    product = {
        name: (p.detach() - before[name]) * (p.detach() + before[name])
        for name, p in parameters(net).items()
    }
    change = {
        "loss": end["loss"] - start.numbers["loss"],
        "weight_norm_sq": float(sum(part.sum() for part in product.values())),
        "grad_norm_sq": end["grad_norm"] ** 2 - start.numbers["grad_norm"] ** 2,
    }
    moved = torch.cat([product[f"{name}.weight"].flatten(1).sum(dim=1) for name in net.convs])
    error = {name: abs(change[name] - predicted[name]) / abs(change[name]) for name in QUANTITIES}
    error["filter_norm_sq"] = float((moved - of_filters).norm() / moved.norm())
    kinks = pieces.differences(_pieces(net, seen))
    return Followed(time, steps, change, predicted, error, kinks)


def _flow(net: Net, seen: Subset, temperature: float, *, second_order: bool = True) -> Flow:
    return measure_flow(net, seen.images, seen.labels, temperature, second_order=second_order)


class Pieces(TorchDispatchMode):
    """Notes, for a block, on which piece of rectifiers and max-pools their inputs lie."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: list[torch.Tensor] = []
        """Whether each input of a rectifier is above 0."""
        self.pools: list[tuple[torch.Tensor, ...]] = []
        """Inputs [N, C, H * W], largest values and their places [N, C, outputs] of a max-pool."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten.relu.default, aten.relu_.default):
            self.signs.append(args[0] > 0)
        result = func(*args, **(kwargs or {}))
        if func is aten.max_pool2d_with_indices.default:
            self.pools.append(tuple(part.flatten(2).clone() for part in (args[0], *result)))
        return result

    def differences(self, later: Pieces) -> int:
        """Inputs of rectifiers with another sign, and choices of max-pools that are worse than the
        later ones by more than rounding (flat images have many ties)."""
        signs = zip(self.signs, later.signs, strict=True)
        count = sum(int((one != other).sum()) for one, other in signs)
        for (_, _, places), (inputs, largest, _) in zip(self.pools, later.pools, strict=True):
            loss = largest - inputs.gather(2, places)
            count += int((loss > ROUNDING * largest.abs()).sum())
        return count


def _pieces(net: Net, seen: Subset) -> Pieces:
    with Pieces() as pieces:
        evaluate(net, seen.images, seen.labels, 1.0)
    return pieces


@dataclass(frozen=True)
class Stepped:
    """One step of SGD in training mode, without momentum and weight decay, for the weights w of all
    filters."""

    step: float
    change: float
    """Of |w|^2."""
    first_order: float
    """-2 step w.g: 0 but for the epsilon that batch norm adds to variances."""
    second_order: float
    """step^2 |g|^2."""
    evaluation_mode: float
    """-2 step w.g, g the gradient in evaluation mode: what gradient flow says there."""


@dataclass(frozen=True)
class Course:
    """Several steps of SGD in training mode, without momentum."""

    weight_decay: float
    change: list[float]
    """Of |w|^2, since the start, after each step."""
    law: list[float]
    """The sum of step^2 |g|^2 and of what weight decay does."""


def train_steps(
    net: Net, start: Flow, batch: Batch, temperature: float, steps: Sequence[float]
) -> tuple[float, float, list[Stepped]]:
    """The largest |cos(w, g)| of a filter, with g in training and in evaluation mode, and what one
    step of each size does.

    start: the flow in evaluation mode; batch: the images of the gradient in training mode. The net
    is left as it is; computed in float64.
    """
    net = copy.deepcopy(net).double()
    weights = _weights(net)
    evaluated = [start.g[f"{name}.weight"] for name in net.convs]
    trained = _training_gradients(net, batch, temperature)
    first, evaluation = (-2 * float(_inner(weights, g).sum()) for g in (trained, evaluated))
    stepped = []
    for step in steps:
        moved = [w - step * g for w, g in zip(weights, trained, strict=True)]
        change = float(sum(((b - a) * (b + a)).sum() for a, b in zip(weights, moved, strict=True)))
        second = step**2 * _squared(trained)
        stepped.append(Stepped(step, change, step * first, second, step * evaluation))
    return _cosine(weights, trained), _cosine(weights, evaluated), stepped


def train_course(
    net: Net, batches: Iterable[Batch], temperature: float, step: float, weight_decay: float
) -> Course:
    """Train in float64 with a step per batch and note |w|^2 of all filters. The net is left as it
    is."""
    net = copy.deepcopy(net).double()
    before, law, course = _squared(_weights(net)), 0.0, Course(weight_decay, [], [])
    for batch in batches:
        g = _training_gradients(net, batch, temperature)
        weights, kept = _weights(net), 1 - step * weight_decay
        law += (kept**2 - 1) * _squared(weights) + step**2 * _squared(g)
        with torch.no_grad():
            for weight, gradient in zip(weights, g, strict=True):
                weight.mul_(kept).sub_(gradient, alpha=step)
        course.change.append(_squared(weights) - before)
        course.law.append(law)
    return course


def _training_gradients(net: Net, batch: Batch, temperature: float) -> list[torch.Tensor]:
    """The gradient of each conv's weights in training mode, on one batch."""
    net.train()
    images, labels = batch
    loss = cross_entropy(net(images.double()) / temperature, labels)
    return list(torch.autograd.grad(loss, [net.get_submodule(name).weight for name in net.convs]))


def _weights(net: Net) -> list[torch.Tensor]:
    return [net.get_submodule(name).weight.detach() for name in net.convs]


def _squared(tensors: Sequence[torch.Tensor]) -> float:
    return float(sum(tensor.square().sum() for tensor in tensors))


def _inner(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inner products, filter by filter."""
    return torch.cat([(x * y).flatten(1).sum(dim=1) for x, y in zip(a, b, strict=True)])


def _cosine(weights: Sequence[torch.Tensor], g: Sequence[torch.Tensor]) -> float:
    """The largest |cos(w, g)| of a filter; filters without a gradient do not count."""
    lengths = (_inner(weights, weights) * _inner(g, g)).sqrt()
    return float((_inner(weights, g).abs() / lengths)[lengths > 0].max())
