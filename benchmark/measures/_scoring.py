"""Scoring a net: everything that measures need is computed once and shared between them.

A measure is a function; its parameter names say what it needs. Per layer (F filters, K weights per
filter):

- `weight`, `initial` [F, K]: the filter's weights, now and at initialisation
- `gradient` [F, K]: g; `gradient_square` [F, K]: mean_b(g_b^2), g_b the mean gradient of a batch
- `hessian_gradient` [F, K]: Hg, the product over all parameters with g held constant
- `gamma`, `beta` [F]: scale and shift of the batch norm behind the conv
- `gamma_square`, `beta_square` [F]: mean_b(g_b^2) of these
- `gate_square` [F]: mean_b((gamma g_gamma + beta g_beta)^2)
- `hessian_diagonal` [F, K]: the diagonal of the Hessian in the weights of the layer
- `activation` [N, F, H, W]: the rectified maps a of some images; the measure then returns its mean
  over these images, and its score is that over all images
- `accumulated_gradient` [F]: sum over the steps of training of |g_b|_2; where they were not
  accumulated, the one |g|_2 of the images
- `activation_gradient` [F]: mean over images and positions of a dL/da, L the mean loss of all
- `live` [F]: whether the filter is neither masked nor without weights
- `uniform` [F]: uniform random numbers in (0, 1)

`benchmark.measures._maps` says what a is.

A measure with a parameter `net` gets the whole `Scoring` instead and returns {conv name: scores
[F]}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Integral, Real
from typing import TypeVar

import torch

from benchmark.config import STATISTICS
from benchmark.data._batches import pixels_of
from benchmark.devices import wide
from benchmark.errors import UserError, require, require_one_of
from benchmark.flow import (
    Gradients,
    Vectors,
    evaluate,
    gradients,
    hessian_gradients,
    with_statistics_of,
)
from benchmark.measures._maps import (
    Layers,
    Slopes,
    hessian_diagonal,
    mean_over_images,
    slopes,
)
from benchmark.models import Net, check_net, copied
from benchmark.models._net import IMAGE
from benchmark.registry import Measure

T = TypeVar("T")
MEAN_GRADIENTS = ("gradient", "hessian_gradient", "accumulated_gradient")
"""Needs that the mean gradient is computed for."""
Scores = dict[str, torch.Tensor]
"""{conv name: one score per filter}"""


def score_all(
    model: Net,
    measures: Sequence[Measure],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float | None = None,
    initial: dict[str, torch.Tensor] | None = None,
    accumulated: dict[str, torch.Tensor] | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
    bn: str = "running",
) -> dict[str, Scores]:
    """{measure's name: {conv name: scores [filters]}}; the other arguments are those of
    `benchmark.measures.score`."""
    require_one_of("bn", bn, STATISTICS)
    check_net(model)
    _check_images(model, images, labels)
    good = isinstance(batch_size, Integral) and batch_size >= 1
    require(good, "batch_size", batch_size, "a whole number from 1")
    good = temperature is None or (isinstance(temperature, Real) and 0 < temperature < math.inf)
    require(good, "temperature", temperature, "a number above 0")
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device, torch.long)
    if bn == "fresh":
        model = with_statistics_of(model, images)
    generator = generator or torch.Generator().manual_seed(0)
    scoring = Scoring(
        model, measures, images, labels, temperature, initial, accumulated, batch_size, generator
    )
    return {measure.name: scoring.scores(measure) for measure in measures}


def _check_images(model: Net, images: torch.Tensor, labels: torch.Tensor) -> None:
    for what, value in {"images": images, "labels": labels}.items():
        require(torch.is_tensor(value), what, type(value).__name__, "a tensor")
    channels = model.channels[IMAGE]
    floats = images.is_floating_point()
    good = images.ndim == 4 and len(images) and images.shape[1 if floats else 3] == channels
    allowed = f"uint8 [N, H, W, {channels}] or float [N, {channels}, H, W], N at least 1"
    got = f"{images.dtype} {list(images.shape)}"
    require(bool(good) and (floats or images.dtype == torch.uint8), "images", got, allowed)
    whole = not labels.is_floating_point() and labels.shape == images.shape[:1]
    got = f"{labels.dtype} {list(labels.shape)}"
    require(whole, "labels", got, f"whole numbers [{len(images)}]")
    low, high = int(labels.min()), int(labels.max())
    most = model.num_classes or high + 1
    require(low >= 0 and high < most, "labels", f"{low} to {high}", f"from 0 to {most - 1}")
    model.pixels(pixels_of(images))  # raises if they do not suit the net


@dataclass
class Scoring:
    """What a set of measures needs of one net; each need is computed when it is first asked for."""

    model: Net
    measures: Sequence[Measure]
    images: torch.Tensor
    labels: torch.Tensor
    temperature: float | None
    initial: dict[str, torch.Tensor] | None
    accumulated: dict[str, torch.Tensor] | None
    batch_size: int
    generator: torch.Generator

    def scores(self, measure: Measure) -> Scores:
        """Scores of one measure: {conv name: tensor [filters]}."""
        if "net" in measure.needs:
            found = measure.function(self)
        elif "activation" in measure.needs:
            found = self.of_activations[measure.name]
        else:
            found = {
                name: measure.function(*(self.layer(name, need, measure) for need in measure.needs))
                for name in self.model.convs
            }
        self._check(measure, found)
        dtype = next(self.model.parameters()).dtype
        return {
            name: layer.to(self.images.device, None if layer.is_floating_point() else dtype)
            for name, layer in found.items()
        }

    @property
    def place(self) -> torch.device:
        """Where there is float64, for what measures get: MPS has none."""
        device = self.images.device
        return torch.device("cpu") if wide(device) != torch.float64 else device

    def layer(self, conv: str, need: str, measure: Measure) -> torch.Tensor:
        """One need of one layer, as the module's text describes it."""
        return self._layer(conv, need, measure).to(self.place)

    def _layer(self, conv: str, need: str, measure: Measure) -> torch.Tensor:
        weight = self.model.get_submodule(conv).weight.detach()
        norm_name = self.model.convs[conv].norm
        if norm_name is None and measure.needs_norm:
            raise UserError(f"{measure.name} needs a batch norm behind each conv, {conv} has none")
        norm = self.model.zeroed(conv)
        t = self.temperature_of(measure)
        match need:
            case "weight":
                return weight.flatten(1)
            case "initial" if self.initial is not None:
                return self._given("initial", self.initial, conv, weight).flatten(1)
            case "initial":
                raise UserError(
                    "initial must be {conv name: weight at initialisation} for this measure, got "
                    "None"
                )
            case "accumulated_gradient" if self.accumulated is not None:
                return self._given("accumulated", self.accumulated, conv, weight[:, 0, 0, 0])
            case "accumulated_gradient":
                return self.gradients.mean[t][f"{conv}.weight"].flatten(1).norm(dim=1)
            case "gradient":
                return self.gradients.mean[t][f"{conv}.weight"].flatten(1)
            case "gradient_square":
                return self.gradients.mean_square[f"{conv}.weight"].flatten(1)
            case "hessian_gradient":
                return self.hessian_gradients[t][f"{conv}.weight"].flatten(1)
            case "gamma":
                return norm.weight.detach()
            case "beta":
                return norm.bias.detach()
            case "gamma_square":
                return self.gradients.mean_square[f"{norm_name}.weight"]
            case "beta_square":
                return self.gradients.mean_square[f"{norm_name}.bias"]
            case "gate_square":
                return self.slopes[t].gate_square[conv].to(weight)
            case "hessian_diagonal":
                return self.hessian_diagonals[t][conv].to(weight)
            case "activation_gradient":
                return self.slopes[t].activation_gradient[conv].to(weight)
            case "live":
                return self.model.mask(conv) & weight.flatten(1).any(dim=1)
            case "uniform":
                return torch.rand(len(weight), generator=self.generator).to(weight)
        raise AssertionError(
            f"measure {measure.name} needs {need!r}, unknown to benchmark.measures._scoring"
        )

    def loss(self, model: Net) -> float:
        """Mean loss of a variant of the net on the scoring set, in evaluation mode."""
        temperature = 5.0 if self.temperature is None else self.temperature
        return evaluate(model, self.images, self.labels, temperature)[0]

    def temperature_of(self, measure: Measure) -> float:
        """The temperature asked for, or else the measure's own."""
        return measure.temperature if self.temperature is None else self.temperature

    @cached_property
    def gradients(self) -> Gradients:
        """One pass for all temperatures that some measure needs."""
        convs = self.model.convs
        of_norms = bool(self._temperatures("gamma_square", "beta_square"))
        of_convs = bool(self._temperatures(*MEAN_GRADIENTS, "gradient_square"))
        norms = [conv.norm for conv in convs.values() if of_norms and conv.norm]
        needed = [f"{name}.weight" for name in convs if of_convs]
        needed += [f"{norm}.{part}" for norm in norms for part in ("weight", "bias")]
        for name in needed:
            if not self.model.get_parameter(name).requires_grad:
                raise UserError(f"{name} must require gradients, by which filters are scored")
        squares = self._temperatures("gradient_square", "gamma_square", "beta_square")
        assert len(squares) <= 1, "measures that need squared gradients share one temperature"
        temperatures = tuple(sorted({*self._temperatures(*MEAN_GRADIENTS), *squares}))
        return gradients(
            self.model, self.images, self.labels, temperatures,
            batch_size=self.batch_size, squares_at=next(iter(squares), None),
        )  # fmt: skip

    @cached_property
    def hessian_gradients(self) -> dict[float, Vectors]:
        """One double-backward pass for all temperatures that some measure needs."""
        g = {t: self.gradients.mean[t] for t in self._temperatures("hessian_gradient")}
        return hessian_gradients(
            self.model, self.images, self.labels, g, batch_size=self.batch_size
        )

    @cached_property
    def precise(self) -> Net:
        """The net in float64. In float32 an output that is nearly 0 may be rectified or not, which
        changes a score by up to 0.002 of the largest (docs/performance.md)."""
        return copied(self.model).to(self.place).double()

    @cached_property
    def of_activations(self) -> dict[str, Scores]:
        """One pass for all measures that need activations: {measure's name: scores}."""
        asking = {m.name: m for m in self.measures if "activation" in m.needs}

        def function(measure: Measure) -> Callable[[str, torch.Tensor], torch.Tensor]:
            return lambda conv, maps: measure.function(
                *(
                    maps if need == "activation" else self.layer(conv, need, measure)
                    for need in measure.needs
                )
            )

        functions = {name: function(m) for name, m in asking.items()}
        images = self.images.to(self.place)
        found = mean_over_images(self.precise, images, functions, batch_size=self.batch_size)
        dtype = next(self.model.parameters()).dtype
        return {
            name: {conv: layer.to(dtype) for conv, layer in layers.items()}
            for name, layers in found.items()
        }

    @cached_property
    def slopes(self) -> dict[float, Slopes]:
        return self._precisely(slopes, "activation_gradient", "gate_square")

    @cached_property
    def hessian_diagonals(self) -> dict[float, Layers]:
        dtype = next(self.model.parameters()).dtype
        return self._precisely(partial(hessian_diagonal, dtype=dtype), "hessian_diagonal")

    def _precisely(self, compute: Callable[..., T], *needs: str) -> dict[float, T]:
        """One pass for each temperature that some measure with one of these needs has."""
        sets = self.precise, *(part.to(self.place) for part in (self.images, self.labels))
        temperatures = self._temperatures(*needs)
        return {t: compute(*sets, t, batch_size=self.batch_size) for t in temperatures}

    def _check(self, measure: Measure, found: object) -> None:
        """Raise `UserError` unless there is one score per filter of every conv."""
        plan, what = self.model.plan, f"scores of measure {measure.name}"
        if not isinstance(found, dict) or list(found) != list(plan):
            got = list(found) if isinstance(found, dict) else type(found).__name__
            require(False, what, got, f"{{conv: scores}} with the convs {', '.join(plan)}")
        for conv, layer in found.items():
            got = list(layer.shape) if torch.is_tensor(layer) else type(layer).__name__
            require(got == [plan[conv]], f"{what} for {conv}", got, f"a tensor [{plan[conv]}]")
            require(not layer.is_complex(), f"{what} for {conv}", layer.dtype, "real numbers")

    def _temperatures(self, *needs: str) -> list[float]:
        """The temperatures of the measures with one of these needs, sorted."""
        asking = (m for m in self.measures if {*needs} & {*m.needs})
        return sorted({self.temperature_of(measure) for measure in asking})

    def _given(
        self, what: str, given: dict[str, torch.Tensor], conv: str, like: torch.Tensor
    ) -> torch.Tensor:
        if conv not in given:
            raise UserError(f"{what} must have an entry for every conv, it lacks {conv}")
        if given[conv].shape != like.shape:
            shapes = f"{list(like.shape)}, got {list(given[conv].shape)}"
            raise UserError(f"{what}[{conv!r}] must have the shape {shapes}")
        return given[conv].detach().to(like)
