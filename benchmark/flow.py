"""Gradient flow: loss, gradient g and Hessian-gradient product Hg, in evaluation mode (BN
statistics fixed).

L is the mean cross-entropy of logits / T. Under d theta/dt = -g: dL/dt = -|g|^2, d|theta|^2/dt = -2
theta.g, d^2|theta|^2/dt^2 = 2 (|g|^2 + theta.Hg), d|g|^2/dt = -2 g.Hg (Lubana & Dick, ICLR 2021,
section 3). Nothing here touches `.grad`, the BN statistics, the mode or the random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from benchmark.data._batches import normalise, pixels_of
from benchmark.devices import wide
from benchmark.errors import UserError
from benchmark.models._autograd import graph_alone
from benchmark.models._net import Net, copied, modes_kept

M = TypeVar("M", bound=nn.Module)
Vectors = dict[str, torch.Tensor]
"""One tensor per trainable parameter, by name."""

TEST_BATCH, TEST_BATCH_CPU = 2500, 256
"""Number of images tested on at once; on a GPU fewer if they are larger than `PIXELS`."""
STATISTICS_BATCH = 128
"""Images per batch for fresh batch-norm statistics."""
FLOW_BATCH = 512
"""Images at once for the gradient flow on a GPU; fewer if they are larger than `PIXELS`."""
PIXELS = 32 * 32
UNUSED = {"allow_unused": True, "materialize_grads": True}
"""For gradients in parameters that the loss may not depend on: they are 0."""
GRADIENT_BATCH, HESSIAN_BATCH = 64, 32
"""Most images at once on a CPU, so that graphs stay in the cache and below 1.3 GB. A GPU computes
whole batches."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid a GPU to round the factors of float32 products to TF32, for a block."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without TF32, for a block; each module then has its own mode again."""
    with modes_kept(model), tf32(False):
        model.eval()
        yield


def parameters(model: nn.Module) -> Vectors:
    """The trainable parameters."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def dot(a: Vectors, b: Vectors) -> torch.Tensor:
    """Inner product over all parameters, accumulated in float64 (on MPS in float32)."""
    kind = wide(next(iter(a.values())).device)
    return sum((a[name].to(kind) * b[name].to(kind)).sum() for name in a)


def by_filter(net: Net, vectors: Vectors) -> dict[str, torch.Tensor]:
    """{conv name: the inner product of the weights and a vector for each filter [filters]}."""
    weights = {name: net.get_submodule(name).weight.detach() for name in net.convs}
    return {
        name: (weight * vectors[f"{name}.weight"]).flatten(1).sum(dim=1)
        for name, weight in weights.items()
    }


@torch.no_grad()
def with_statistics_of(model: M, images: torch.Tensor) -> M:
    """A copy of a net whose batch norms have the statistics of these images (uint8 [N, H, W, 3]).

    The statistics are those of batches of 128 in training, averaged with the sizes of the batches
    as weights; all other modules are in evaluation mode. Raises `UserError` if the last batch has
    one value per channel.
    """
    result, seen = copied(model), 0
    norms = [m for m in result.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(result):
        for norm in norms:
            norm.reset_running_stats()
            norm.training = True
        for x, _, _ in batches(result, images, images, STATISTICS_BATCH):
            seen += len(x)
            for norm in norms:
                norm.momentum = len(x) / seen
            try:
                result(x)
            except ValueError:  # raised by batch norm
                height, width = pixels_of(images)
                size = f"{width}x{height}"
                raise UserError(
                    f"batch-norm statistics of {len(images)} images of {size} must not end with a "
                    "batch of one image: choose another number of score_samples or probe_samples "
                    f"(batches are of {STATISTICS_BATCH})"
                ) from None
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result


@dataclass(frozen=True)
class Gradients:
    """The results of a pass over a set of images."""

    mean: dict[float, Vectors]
    """g for each temperature: the gradient of the mean loss over all images."""
    mean_square: Vectors
    """mean_b(g_b^2), g_b the mean gradient of batch b, at the temperature `squares_at` (empty
    without it)."""
    loss: float
    """Mean loss at the first temperature."""
    accuracy: float


def gradients(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    temperatures: tuple[float, ...],
    *,
    batch_size: int = 128,
    squares_at: float | None = None,
) -> Gradients:
    """One pass over `images` (uint8 [N, H, W, 3]) and `labels` (int64 [N]): gradients at all
    temperatures from one forward per batch.

    squares_at: the temperature at which the gradients of batches of `batch_size` are squared. (A
    CPU computes these gradients in parts.)
    """
    theta = parameters(model)
    mean = {t: _zeros(theta) for t in temperatures}
    square = {} if squares_at is None else _zeros(theta)
    loss_sum = correct = torch.zeros((), device=images.device, dtype=wide(images.device))
    part_size = limited(batch_size, GRADIENT_BATCH, images)
    with evaluating(model), torch.enable_grad():
        for batch in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            batch_share = len(batch[1]) / len(labels)
            # summed per batch even without squares, so that these change no bit of a mean
            batch_mean = {t: _zeros(theta) for t in temperatures}
            for x, y, share in batches(model, *batch, part_size):
                logits = model(x)
                for t in temperatures:
                    loss = cross_entropy(logits / t, y)
                    grads = torch.autograd.grad(
                        loss, list(theta.values()), retain_graph=t != temperatures[-1], **UNUSED
                    )
                    for name, grad in zip(theta, grads, strict=True):
                        batch_mean[t][name].add_(grad, alpha=share)
                    if t == temperatures[0]:
                        loss_sum = loss_sum + loss.detach().to(loss_sum) * share * batch_share
                correct = correct + (logits.detach().argmax(1) == y).sum()
            for t in temperatures:
                for name, grad in batch_mean[t].items():
                    mean[t][name].add_(grad, alpha=batch_share)
            for name in square:
                grad = batch_mean[squares_at][name]
                square[name].addcmul_(grad, grad, value=batch_share)
    return Gradients(mean, square, float(loss_sum), float(correct) / len(labels))


def hessian_gradients(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    g: dict[float, Vectors],
    *,
    batch_size: int = 128,
) -> dict[float, Vectors]:
    """Hg for each temperature in `g` (held constant), H the Hessian of the mean loss over all
    parameters.

    There is one forward per batch, and one double backward per batch and temperature. batch_size:
    an upper limit, which bounds the memory.
    """
    batch_size = limited(batch_size, HESSIAN_BATCH, images)
    theta = parameters(model)
    result = {t: _zeros(theta) for t in g}
    # torch's other kinds of attention have no second derivative
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for x, y, share in batches(model, images, labels, batch_size):
            logits = model(x)
            for t in g:
                loss = cross_entropy(logits / t, y)
                with graph_alone():
                    grads = torch.autograd.grad(
                        loss, list(theta.values()), create_graph=True, **UNUSED
                    )
                # a sum, because torch imports sympy to check vectors that it gets
                inner = sum(
                    (grad * g[t][name]).sum() for name, grad in zip(theta, grads, strict=True)
                )
                products = torch.autograd.grad(
                    inner, list(theta.values()), retain_graph=t != list(g)[-1], **UNUSED
                )
                for name, product in zip(theta, products, strict=True):
                    result[t][name].add_(product, alpha=share)
    return result


@dataclass(frozen=True)
class Flow:
    """The flow quantities of a net on a set of images, and the vectors behind them."""

    numbers: dict[str, float]
    """loss, accuracy, grad_norm, weight_norm_sq, theta_g, theta_hg, g_hg."""
    g: Vectors
    hg: Vectors


def measure_flow(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    *,
    second_order: bool = True,
) -> Flow:
    """All flow quantities of `model` on a probe set (uint8 [N, H, W, 3], int64 [N]).

    second_order: False leaves Hg out, and with it theta_hg and g_hg.
    """
    batch_size = 128 if images.device.type == "cpu" else fitting(FLOW_BATCH, images)
    passed = gradients(model, images, labels, (temperature,), batch_size=batch_size)
    g = passed.mean[temperature]
    theta = {name: p.detach() for name, p in parameters(model).items()}
    numbers = {
        "loss": passed.loss,
        "accuracy": passed.accuracy,
        "grad_norm": float(dot(g, g).sqrt()),
        "weight_norm_sq": float(dot(theta, theta)),
        "theta_g": float(dot(theta, g)),
    }
    if not second_order:
        return Flow(numbers, g, {})
    hg = hessian_gradients(model, images, labels, passed.mean, batch_size=batch_size)[temperature]
    numbers |= {"theta_hg": float(dot(theta, hg)), "g_hg": float(dot(g, hg))}
    return Flow(numbers, g, hg)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    *,
    batch_size: int | None = None,
) -> tuple[float, float]:
    """Mean loss of logits / T, and accuracy, over uint8 images [N, H, W, 3].

    batch_size: None takes what is fast on the device.
    """
    on_cpu = images.device.type == "cpu"
    batch_size = batch_size or (TEST_BATCH_CPU if on_cpu else fitting(TEST_BATCH, images))
    loss_sum = correct = torch.zeros((), device=images.device, dtype=wide(images.device))
    with evaluating(model):
        for x, y, share in batches(model, images, labels, batch_size):
            logits = model(x)
            loss = cross_entropy(logits / temperature, y)
            loss_sum = loss_sum + loss.to(loss_sum) * share
            correct = correct + (logits.argmax(1) == y).sum()
    return float(loss_sum), float(correct) / len(labels)


def _zeros(theta: Vectors) -> Vectors:
    return {name: torch.zeros_like(p) for name, p in theta.items()}


def fitting(batch_size: int, images: torch.Tensor) -> int:
    """`batch_size`, or fewer images if they are larger than `PIXELS`."""
    pixels = prod(pixels_of(images))
    return max(1, batch_size * PIXELS // max(pixels, PIXELS))


def limited(batch_size: int, limit: int, images: torch.Tensor) -> int:
    """`batch_size`, on a CPU at most `limit`."""
    return min(batch_size, limit) if images.device.type == "cpu" else batch_size


def batches(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """Batches in order: images as the net takes them, labels, share of all images."""
    dtype = next(model.parameters()).dtype
    for start in range(0, len(images), batch_size):
        x = normalise(images[start : start + batch_size], dtype)
        yield x, labels[start : start + batch_size], len(x) / len(images)
