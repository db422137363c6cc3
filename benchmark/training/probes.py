"""Cut probes: at some epochs of a dense run every measure prunes a copy of the net, which is not
trained.

A probe compares what first-order theory predicts of a small cut with what the cut does. All numbers
are of the probe set; batch-norm statistics are those that `score_bn` chooses, and are held.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator

import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.cost import cost, dense_cost
from benchmark.data._batches import generator
from benchmark.flow import Flow, by_filter, evaluate, measure_flow
from benchmark.measures._scoring import Scores, score_all
from benchmark.models import Net
from benchmark.pruning import select, shrink
from benchmark.pruning.ranks import agreement
from benchmark.record import PROBE_KEYS, PROBE_SHARES
from benchmark.training.cut import predicted_changes, scorable, scored_net
from benchmark.training.problem import Problem
from benchmark.training.state import State, initial_weights, sent
from benchmark.training.steps import Steps

SMALL = 0.2
"""Largest share at which theta.Hg is measured after a cut."""
SECOND_ORDER = ("grad_preservation", "grasp_t1")
"""Measures after whose cuts theta.Hg is measured."""
DRAWS = 20
"""Cuts by `random` for each share."""
NO_PROBE = ("oracle", "none", "random")
"""Measures without scores here; `random` draws its own for each cut."""


def probe(
    state: State, problem: Problem, config: RunConfig
) -> Steps[tuple[list[dict], list[dict]]]:
    """The rows of `probes.jsonl` and of `probe_ranks.jsonl` for the epoch that the state is at.

    A step is a cut. Scores are computed once, for all measures and shares. Cuts follow the rules
    `exact`, globally, filter by filter. A net whose loss is NaN or infinite has no rows, and
    neither has a measure whose scores are. The state is left as it is.
    """
    start = time.perf_counter()
    scoring, seen = problem.scoring, problem.probe
    model = scored_net(state.model, problem, config)
    whole = dense_cost(model, problem.size)["macs"]
    before = measure_flow(model, seen.images, seen.labels, config.temperature)
    if not math.isfinite(before.numbers["loss"]):
        return [], []
    measures = [measure for measure in scorable(state) if measure.name not in NO_PROBE]
    scores = score_all(
        model, measures, scoring.images, scoring.labels,
        initial=initial_weights(config, state), accumulated=state.accumulated,
    )  # fmt: skip
    # a cut reads some 200 numbers, and a GPU that other processes use answers each of them late
    held = copy.deepcopy(model).cpu()
    scores = {name: _read(layers) for name, layers in scores.items()}
    scores = {
        name: layers
        for name, layers in scores.items()
        if all(layer.isfinite().all() for layer in layers.values())
    }
    agreed = agreement(scores, held) | agreement(_products(model, before), held)
    ranks = [
        {"epoch": state.epoch, "a": a, "b": b, "rho": rho}
        for (a, b), rho in ((pair.split("|"), rho) for pair, rho in agreed.items())
    ]
    rows, device = [], seen.images.device
    for name, share, draw, layers in _cuts(scores, model, config, state.epoch):
        shrunk = shrink(held, select(held, layers, share))
        kept_macs = cost(shrunk.net, problem.size)["net/macs"] / whole
        after = _after(sent(shrunk.net, device), problem, config, name, share, draw)
        row = {
            "epoch": state.epoch,
            "measure": name,
            "share": share,
            "draw": draw,
            "kept_macs": kept_macs,
            "before": {key: before.numbers[key] for key in PROBE_KEYS},
            "after": after,
            "predicted": predicted_changes(model, sent(shrunk.masked, device), before),
            "actual": _changes(before.numbers, after),
            "seconds": time.perf_counter() - start,
        }
        rows.append(row)
        yield 0.0
        start = time.perf_counter()
    return rows, ranks


def _read(scores: Scores) -> Scores:
    """Scores on the CPU, read at once."""
    read = torch.cat(list(scores.values())).cpu()
    return dict(zip(scores, read.split([len(s) for s in scores.values()]), strict=True))


def _cuts(
    scores: dict[str, Scores], model: Net, config: RunConfig, epoch: int
) -> Iterator[tuple[str, float, int, Scores]]:
    """(measure, share, draw, scores) of each cut."""
    for share in PROBE_SHARES:
        for name, layers in scores.items():
            yield name, share, 0, layers
        for draw in range(DRAWS):
            source = generator(stream_seed(f"probe draw {draw}", config, epoch=epoch))
            drawn = {n: torch.rand(filters, generator=source) for n, filters in model.plan.items()}
            yield "random", share, draw, drawn


def _products(model: Net, before: Flow) -> dict[str, Scores]:
    """theta.g and theta.Hg of each filter, on the CPU."""
    vectors = {"theta_g": before.g, "theta_hg": before.hg}
    return {key: _read(by_filter(model, vector)) for key, vector in vectors.items()}


def _after(
    net: Net, problem: Problem, config: RunConfig, name: str, share: float, draw: int
) -> dict[str, float | None]:
    seen, temperature = problem.probe, config.temperature
    if name == "random" and draw:
        loss, _ = evaluate(net, seen.images, seen.labels, temperature)
        return dict.fromkeys(PROBE_KEYS) | {"loss": loss}
    second_order = name == "random" or (name in SECOND_ORDER and share <= SMALL)
    found = measure_flow(net, seen.images, seen.labels, temperature, second_order=second_order)
    return {key: found.numbers.get(key) for key in PROBE_KEYS}


def _changes(before: dict[str, float], after: dict[str, float | None]) -> dict[str, float | None]:
    squared = None
    if after["grad_norm"] is not None:
        squared = after["grad_norm"] ** 2 - before["grad_norm"] ** 2
    return {"loss_change": after["loss"] - before["loss"], "grad_norm_sq_change": squared}
