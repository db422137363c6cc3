"""One cut of a run: score, select, compact, and record what it did to the gradient flow."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.data._batches import augmented, generator
from benchmark.files import sync, write_atomically
from benchmark.flow import dot, gradients, measure_flow, parameters, with_statistics_of
from benchmark.measures import MEASURES
from benchmark.measures._scoring import Scores, score_all
from benchmark.models import Net
from benchmark.pruning import Keep, compact, masked, select
from benchmark.pruning.masks import kept_indices
from benchmark.pruning.ranks import agreement
from benchmark.record import COLLAPSED, DIVERGED
from benchmark.training.epoch import Problem
from benchmark.training.state import (
    State,
    carry_momentum,
    initial_weights,
    make_optimizer,
    prepared,
    reinitialised,
)


class CutError(Exception):
    """A cut that cannot be made; the net is as it was before."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def make_cut(
    state: State, problem: Problem, config: RunConfig, scores_file: Path, *, score_every: bool
) -> dict:
    """Make the next cut in place; returns its row and writes the per-filter scores (of every
    measure, if asked).

    Scores, and the changes from before to after the cut, are computed with one set of batch-norm
    statistics, which `score_bn` chooses; `after_fresh` is the pruned net with statistics of its
    own, which training meets next. The training net's own running statistics stay.

    Raises `CutError`: diverged, if the score of a live filter is not finite; collapsed, if a layer
    keeps no filter or no gradient reaches a conv any more.
    """
    start = time.perf_counter()
    round, probe, trained = len(state.cuts) + 1, problem.probe, state.model
    model = (
        with_statistics_of(trained, problem.scoring.images)
        if config.score_bn == "fresh"
        else trained
    )
    before = measure_flow(model, probe.images, probe.labels, config.temperature)
    scores = _scores(model, state, problem, config, round, every=score_every)
    own = ablated(scores[config.measure], model, config, round)
    live = model.masks()
    if not all(layer[live[name]].isfinite().all() for name, layer in own.items()):
        raise CutError(DIVERGED)
    keep = select(
        model, own, config.ratio, round=round, rounds=config.rounds, protocol=config.protocol
    )
    if not all((mask & live[name]).any() for name, mask in keep.items()):
        raise CutError(COLLAPSED)
    predicted = _predicted(model, keep, before.g, before.hg)
    _write_scores(scores_file, scores)
    device = problem.train.images.device
    after = measure_flow(
        prepared(compact(model, keep), device), probe.images, probe.labels, config.temperature
    )
    pruned = prepared(compact(trained, keep), device)
    refreshed = with_statistics_of(pruned, problem.scoring.images)
    met = gradients(refreshed, probe.images, probe.labels, (config.temperature,))
    slopes = met.mean[config.temperature]
    if not any(slopes[f"{name}.weight"].any() for name in pruned.convs):
        raise CutError(COLLAPSED)
    agreed = agreement(scores, model)
    alive = {name: layer[live[name]] for name, layer in scores[config.measure].items()}
    _adopt(state, pruned, keep, scores, config, round)
    seconds = time.perf_counter() - start
    state.seconds += seconds
    row = {
        "round": round,
        "epoch": state.epoch,
        "kept": {name: int(mask.sum()) for name, mask in pruned.masks().items()},
        "before": before.numbers,
        "after": after.numbers,
        "after_fresh": {
            "loss": met.loss,
            "accuracy": met.accuracy,
            "grad_norm": float(dot(slopes, slopes).sqrt()),
        },
        "predicted": predicted,
        "actual": {
            "loss_change": after.numbers["loss"] - before.numbers["loss"],
            "grad_norm_sq_change": after.numbers["grad_norm"] ** 2
            - before.numbers["grad_norm"] ** 2,
        },
        "scores": {
            name: {"min": float(s.min()), "mean": float(s.mean()), "max": float(s.max())}
            for name, s in alive.items()
        },
        "agreement": agreed,
        "seconds": seconds,
    }
    state.cuts.append(row)
    return row


def ablated(scores: Scores, model: Net, config: RunConfig, round: int) -> Scores:
    """Scores as the run's ablation wants them: unchanged, permuted inside each layer, or with the
    order inverted."""
    if config.ablation == "invert":
        return {name: -layer for name, layer in scores.items()}
    if config.ablation != "layer_shuffle":
        return scores
    draw = generator(stream_seed("layer_shuffle", config, epoch=round))
    shuffled = {}
    for name, layer in scores.items():
        live = model.mask(name).nonzero().flatten()
        order = torch.randperm(len(live), generator=draw).to(live.device)
        shuffled[name] = layer.clone()
        shuffled[name][live] = layer[live[order]]
    return shuffled


def _scores(
    model: Net, state: State, problem: Problem, config: RunConfig, round: int, *, every: bool
) -> dict[str, Scores]:
    names = [config.measure]
    if every:
        names += [name for name in MEASURES if name not in (config.measure, "none", "oracle")]
    initial = None
    if any("initial" in MEASURES[name].needs for name in names):
        initial = initial_weights(config, state)
    images = problem.scoring.images
    if config.protocol == "paper" and problem.augment:
        images = augmented(images, stream_seed("scoring augment", config, "dataset", epoch=round))
    return score_all(
        model, names, images, problem.scoring.labels, initial=initial,
        generator=generator(stream_seed("measure", config, "measure", epoch=round)),
    )  # fmt: skip


def _predicted(model: Net, keep: Keep, g: dict, hg: dict) -> dict[str, float]:
    """First-order changes when the removed filters' parameters theta_p go to 0: -theta_p.g_p and -2
    theta_p.(Hg)_p."""
    theta = parameters(model)
    step = {name: (p - theta[name]).detach() for name, p in parameters(masked(model, keep)).items()}
    return {"loss_change": float(dot(step, g)), "grad_norm_sq_change": 2 * float(dot(step, hg))}


def _adopt(
    state: State, pruned: Net, keep: Keep, scores: dict[str, Scores], config: RunConfig, round: int
) -> None:
    source = masked(state.model, keep)
    if config.ablation == "reinit":
        new = reinitialised(config, pruned.num_classes, pruned.plan, round)
        pruned.load_state_dict(new.state_dict())
        pruned = masked(pruned, pruned.masks())
    optimizer = make_optimizer(pruned, config)
    if config.cut_momentum == "carry" and config.ablation != "reinit":
        carry_momentum(state, keep, optimizer, pruned)
    rows = {name: kept_indices(source)[f"{name}.weight"][0].cpu() for name in source.convs}
    state.origin = {name: state.origin[name][rows[name]] for name in rows}
    state.ranked = {
        measure: {name: layer[rows[name].to(layer.device)] for name, layer in layers.items()}
        for measure, layers in scores.items()
    }
    state.model, state.optimizer = pruned, optimizer


def _write_scores(path: Path, scores: dict[str, Scores]) -> None:
    """Scores are on the disk before a checkpoint says that the cut was made, because no checkpoint
    holds them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays = {
        f"{m}/{conv}": s.cpu().numpy() for m, layers in scores.items() for conv, s in layers.items()
    }
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
    sync(path.parent)
