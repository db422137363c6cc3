"""Passes over a scoring set that look inside a net: rectified maps, their gradients, and the
diagonal of the Hessian.

The map a of a filter [H, W] is relu(z). z is the output of the conv's batch norm; it is that of the
conv itself if there is no batch norm, or something else comes first (VGG: conv -> ReLU -> BN).
Where the net adds other outputs before it rectifies, a is relu(z) of this conv alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmark.flow import (
    GRADIENT_BATCH,
    UNUSED,
    batches,
    evaluating,
    limited,
)
from benchmark.models import Net
from benchmark.models._net import hooked

Layers = dict[str, torch.Tensor]
"""One tensor per conv, by name."""
EXACT_CLASSES = 100
"""Most classes for which the diagonal of the Hessian is exact."""
PROBES = 32
"""Random vectors per image that estimate it for more classes."""
JACOBIAN_BATCH = 16
"""Most images whose slopes of all logits are in memory at once."""
MOST_VALUES = 2**20
"""Most numbers that the weight gradients of single images take at once."""


@torch.no_grad()
def mean_over_images(
    model: Net,
    images: torch.Tensor,
    functions: dict[str, Callable[[str, torch.Tensor], torch.Tensor]],
    *,
    batch_size: int = 128,
) -> dict[str, Layers]:
    """{name: {conv: mean [F] over the images}} of functions by name.

    A function gets the name of a conv and its maps for some images [N, F, H, W], and returns the
    mean over these images [F]. The maps of one conv are in memory at a time.
    """
    result: dict[str, Layers] = {name: {} for name in functions}

    def see(conv: str, z: torch.Tensor) -> None:
        maps = _own(model, conv, z).relu()
        for name, function in functions.items():
            layer = function(conv, maps) * (len(maps) / len(images))
            result[name][conv] = result[name][conv] + layer if conv in result[name] else layer

    with _watching(model, images, see):
        for x, _, _ in _parts(model, images, images, batch_size):
            model(x)
    return {name: {conv: layers[conv] for conv in model.convs} for name, layers in result.items()}


class Slopes(NamedTuple):
    """What a shrinking output of a filter does to the loss."""

    activation_gradient: Layers
    """{conv: mean over images and positions of a dL/da [F]}, L the mean loss of all images."""
    gate_square: Layers
    """{conv: mean over batches of (gamma g_gamma + beta g_beta)^2 [F]}, g the gradient of the mean
    loss of a batch; batches count by their sizes. Convs without batch norm are left out."""


def slopes(
    model: Net,
    images: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    *,
    batch_size: int = 128,
) -> Slopes:
    """Both from one pass over the images."""
    theta = dict(model.named_parameters())
    norms = {conv: entry.norm for conv, entry in model.convs.items() if entry.norm}
    scales = {
        conv: (theta[f"{norm}.weight"], theta[f"{norm}.bias"]) for conv, norm in norms.items()
    }
    result = Slopes(dict.fromkeys(model.convs, 0.0), dict.fromkeys(norms, 0.0))
    flat = [parameter for pair in scales.values() for parameter in pair]
    seen: Layers = {}

    def see(conv: str, z: torch.Tensor) -> torch.Tensor:
        seen[conv] = z
        return z.clone()  # what follows may change it in place

    with _watching(model, images, see), _trained(model, flat), torch.enable_grad():
        for batch in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            gates = dict.fromkeys(norms, 0.0)
            for x, y, share in _parts(model, *batch, batch_size):
                logits = model(x.requires_grad_().clone())
                loss = functional.cross_entropy(logits / temperature, y)
                found = torch.autograd.grad(loss, [*seen.values(), *flat], **UNUSED)
                of_maps, of_norms = found[: len(seen)], found[len(seen) :]
                for (conv, z), slope in zip(seen.items(), of_maps, strict=True):
                    product = _own(model, conv, z.detach().relu() * slope)
                    part = product.mean(dim=(2, 3)).sum(dim=0) * len(x) / len(images) ** 2
                    result.activation_gradient[conv] = result.activation_gradient[conv] + part
                pairs = zip(of_norms[::2], of_norms[1::2], strict=True)
                for (conv, (gamma, beta)), (g_gamma, g_beta) in zip(
                    scales.items(), pairs, strict=True
                ):
                    gate = gamma.detach() * g_gamma + beta.detach() * g_beta
                    gates[conv] = gates[conv] + share * gate
            for conv, gate in gates.items():
                square = gate.square() * (len(batch[1]) / len(labels))
                result.gate_square[conv] = result.gate_square[conv] + square
    return result


def hessian_diagonal(
    model: Net,
    images: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    *,
    batch_size: int = 128,
    dtype: torch.dtype | None = None,
) -> Layers:
    """{conv: H_ii [F, K]}, the diagonal of the Hessian of the mean loss in the conv's weights.

    It is the mean over images of sum_c (J's_c)_i^2 / T^2, where J = dz/dw are the slopes of the
    logits z and the columns s_c have the sum of s_c s_c' = diag(p) - p p', the Hessian of the
    cross-entropy. This is all of it where z is linear in the weights of a conv but for kinks
    (rectifiers), and its Gauss-Newton part elsewhere. For more than 100 classes the columns are 32
    of their random combinations with signs, so that the mean is right. dtype: of the products of
    slopes and inputs of a conv, which take most of the time (None: that of the net).
    """
    result = dict.fromkeys(model.convs, 0.0)
    random = torch.Generator().manual_seed(0)
    size, dtype = min(batch_size, JACOBIAN_BATCH), dtype or next(model.parameters()).dtype
    with evaluating(model), _trained(model), torch.enable_grad():
        for x, _, _ in batches(model, images, labels, size):
            ends: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            with _ends_of_convs(model, ends):
                logits = model(x.requires_grad_().clone())
            outputs = [out for _, out in ends.values()]
            columns = _columns((logits.detach() / temperature).softmax(dim=1), random)
            found = [
                torch.autograd.grad(
                    logits, outputs, column / temperature, retain_graph=True, **UNUSED
                )
                for column in columns
            ]
            for (conv, (read, _)), *of_conv in zip(ends.items(), *found, strict=True):
                stacked = torch.stack(of_conv, dim=1).to(dtype)
                squares = _sum_of_squares(model, conv, read.detach().to(dtype), stacked)
                result[conv] = result[conv] + squares.to(x) / len(images)
    return {conv: diagonal * model.mask(conv)[:, None] for conv, diagonal in result.items()}


def _parts(
    model: Net, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    return batches(model, images, labels, limited(batch_size, GRADIENT_BATCH, images))


def _columns(p: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Columns [C or 32, N, C] whose squares sum to diag(p) - p p', for probabilities [N, C]."""
    count, classes = p.shape
    roots = p.sqrt()
    if classes <= EXACT_CLASSES:
        signs = torch.eye(classes).to(p)[:, None, :].expand(classes, count, classes)
    else:
        draws = torch.randint(0, 2, (count, PROBES, classes), generator=random)
        signs = (2.0 * draws - 1).to(p).transpose(0, 1) / PROBES**0.5
    return roots * signs - p * (roots * signs).sum(dim=2, keepdim=True)


def _sum_of_squares(
    model: Net, conv: str, read: torch.Tensor, slopes: torch.Tensor
) -> torch.Tensor:
    """The squared weight gradients of single images, summed [F, K], from what a conv reads
    [N, channels, H, W] and gradients at its outputs [N, columns, F, H, W]."""
    module = model.get_submodule(conv)
    filters, values, groups = module.out_channels, module.weight[0].numel(), module.groups
    if slopes.shape[2] != filters:
        slopes = slopes[:, :, model.places(conv)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    read = functional.pad(read, module._reversed_padding_repeated_twice, mode=mode)
    columns = slopes.shape[1]
    slopes = slopes.reshape(len(slopes), columns, groups, filters // groups, -1).transpose(1, 2)
    total = slopes.new_zeros(groups, columns, filters // groups, values)
    most = max(columns * filters, slopes.shape[-1]) * values
    size = max(1, MOST_VALUES // most)
    for x, y in zip(read.split(size), slopes.split(size), strict=True):
        patches = functional.unfold(
            x, module.kernel_size, dilation=module.dilation, stride=module.stride
        )
        patches = patches.reshape(len(x), groups, values, -1)
        products = y.flatten(2, 3) @ patches.transpose(2, 3)
        total += products.square().sum(dim=0).view_as(total)
    return total.sum(dim=1).flatten(0, 1)


def _own(model: Net, conv: str, maps: torch.Tensor) -> torch.Tensor:
    """The maps of a conv's filters, of those that its batch norm or itself returned; those of
    masked filters are 0."""
    if maps.shape[1] != model.plan[conv]:
        maps = maps[:, model.places(conv)]
    return maps * model.mask(conv).to(maps)[:, None, None]


@contextmanager
def _trained(model: Net, wanted: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """Only these parameters need gradients, for a block; those of convs would cost most."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in wanted:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


@contextmanager
def _watching(
    model: Net, images: torch.Tensor, see: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Evaluation mode in which `see` gets the name of each conv and its z, for a block; what it
    returns, if anything, takes the place of z."""
    with evaluating(model):
        sources = _sources(model, images)
        with hooked(model, sources, lambda conv, _, z: see(conv, z)):
            yield


@contextmanager
def _ends_of_convs(
    model: Net, ends: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[None]:
    """Collect what each conv reads and returns."""

    def see(conv: str, read: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        ends[conv] = read, out
        return out.clone()  # what follows may change it in place

    with hooked(model, {conv: conv for conv in model.convs}, see):
        yield


@torch.no_grad()
def _sources(model: Net, images: torch.Tensor) -> dict[str, str]:
    """{conv: the module whose output is its z}, from a look at one image."""
    sources = {conv: conv for conv in model.convs}
    outputs: dict[str, tuple[torch.Tensor, int]] = {}

    def note(conv: str, _: torch.Tensor, out: torch.Tensor) -> None:
        outputs[conv] = out, out._version  # an activation in place counts it up

    def compare(conv: str, read: torch.Tensor, _: torch.Tensor) -> None:
        out, version = outputs[conv]
        if read is out and read._version == version:
            sources[conv] = model.convs[conv].norm

    norms = {conv: entry.norm for conv, entry in model.convs.items() if entry.norm}
    x = next(batches(model, images[:1], images[:1], 1))[0]
    with hooked(model, dict(sources), note), hooked(model, norms, compare):
        model(x)
    return sources
