"""Importance measures, one file each: a function from what it needs to one score per filter.

The lowest score is pruned first, for every measure. This module and the measures' files import no
torch, so that the measures' names, orders and needs are known without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry

if TYPE_CHECKING:
    import torch

MEASURES: dict[str, registry.Measure] = {
    name: registry.load_measure(name) for name in registry.names("measures")
}
"""The measures of the suite."""


def score(
    model: torch.nn.Module,
    measure: str | Path | registry.Measure,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float | None = None,
    initial: dict[str, torch.Tensor] | None = None,
    accumulated: dict[str, torch.Tensor] | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
    bn: str = "running",
) -> dict[str, torch.Tensor]:
    """Score every filter of `model` with one measure.

    model: a net of this suite, or one of `benchmark.models.trace`. measure: a name, the path of a
    measure's file, or a `Measure`. images: uint8 [N, H, W, 3], which are normalised here, or float
    [N, C, H, W]; labels: int64 [N]. temperature: None for the measure's own. initial: {conv name:
    weight at initialisation}, for measures that need it. accumulated: {conv name: sum of the norms
    of the filters' gradients over the steps of training [filters]}, for measures that need it; None
    takes the gradient of the images as the only step. batch_size: only the scores of `fisher*` and
    `taylor_gate` depend on it; for the others it bounds memory. generator: a CPU generator, for the
    random measures. bn: batch-norm statistics, `running` (those of the model) or `fresh` (those of
    the images, on a copy).

    Returns {conv name: scores [filters]} in the order of `named_modules`. Weights, gradients,
    batch-norm statistics and mode of the model, and the global random state, do not change. Raises
    `UserError` for an unknown measure or kind of statistics, and for a measure whose scores are not
    one number per filter.
    """
    from benchmark.measures._scoring import score_all  # here, because it imports torch

    if not isinstance(measure, registry.Measure):
        name = registry.resolve("measures", str(measure))
        registry.check("measure", "measures", name)
        measure = registry.load_measure(name)
    return score_all(
        model, [measure], images, labels,
        temperature=temperature, initial=initial, accumulated=accumulated, batch_size=batch_size,
        generator=generator, bn=bn,
    )[measure.name]  # fmt: skip
