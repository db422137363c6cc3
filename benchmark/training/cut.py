"""One cut of a run: score, select, shrink, and record what that does to the gradient flow."""

from __future__ import annotations

import copy
import io
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.data._batches import augmented, generator
from benchmark.errors import UserError
from benchmark.files import sync, write_atomically
from benchmark.flow import Flow, dot, measure_flow, parameters, with_statistics_of
from benchmark.measures import MEASURES
from benchmark.measures._scoring import Scores, score_all
from benchmark.models import Net, multiple
from benchmark.pruning import Shrunk, select, shrink
from benchmark.pruning.masks import Keep, mask_filters
from benchmark.pruning.ranks import agreement
from benchmark.record import COLLAPSED, DIVERGED
from benchmark.registry import Measure, load_measure
from benchmark.training.problem import Problem
from benchmark.training.state import (
    State,
    carry_momentum,
    initial_net,
    initial_weights,
    no_gradients,
    prepared,
    reinitialised,
)
from benchmark.training.step import make_optimizer


class CutError(Exception):
    """A cut that cannot be made; the net does not change. The text is the outcome of the run."""


def check_measure(config: RunConfig, num_classes: int) -> None:
    """Raise `UserError` if the measure of a run cannot score its net."""
    measure = load_measure(config.measure)
    if not measure.needs_norm:
        return
    net = initial_net(replace(config, init=""), num_classes)
    if not has_norms(net):
        lacking = next(name for name, conv in net.convs.items() if not conv.norm)
        raise UserError(
            f"{config.measure} needs a batch norm behind each conv, {lacking} of {config.arch} has "
            "none"
        )


def has_norms(model: Net) -> bool:
    """Whether each conv of a net has a batch norm."""
    return all(conv.norm for conv in model.convs.values())


def scorable(state: State) -> list[Measure]:
    """The measures of the suite whose needs this state can meet: batch norms, and gradients of
    training."""
    norms, accumulated = has_norms(state.model), state.accumulated is not None
    return [
        measure
        for measure in MEASURES.values()
        if (norms or not measure.needs_norm) and (accumulated or not measure.accumulates)
    ]


def make_cut(
    state: State, problem: Problem, config: RunConfig, scores_file: Path, *, score_every: bool
) -> dict:
    """Make the next cut in place; returns its row and writes the per-filter scores (of every
    measure, if asked).

    Scores, and the changes from before to after the cut, are computed with one set of batch-norm
    statistics, which `score_bn` chooses. `after_fresh` describes the pruned net with batch-norm
    statistics of its own, which it has as soon as it is trained. The running statistics of the
    training net stay.

    Raises `CutError`: diverged, if the score of a live filter is not finite; collapsed, if a layer
    keeps no filter or no gradient reaches any conv.
    """
    start = time.perf_counter()
    round, temperature = len(state.cuts) + 1, config.temperature
    trained, probe, scoring = state.model, problem.probe, problem.scoring
    model = scored_net(trained, problem, config)
    before = measure_flow(model, probe.images, probe.labels, temperature)
    scoring_start = time.perf_counter()
    scores = _scores(model, state, problem, config, every=score_every)
    drawn = sampled(scores[config.measure], model, config, round)
    own, live = ablated(drawn, model, config, round), model.masks()
    if not all(layer[live[name]].isfinite().all() for name, layer in own.items()):
        raise CutError(DIVERGED)
    score_seconds = None if score_every else time.perf_counter() - scoring_start
    fades = config.removal == "soft" and round < config.rounds
    keep = select(
        model, own, config.ratio, round=config.rounds if fades else round,
        rounds=config.rounds, protocol=config.protocol,
        budget=config.budget, allocation=config.allocation, grouping=config.grouping,
        image_size=problem.size,
    )  # fmt: skip
    if not all((mask & live[name]).any() for name, mask in keep.items()):
        raise CutError(COLLAPSED)
    _write_scores(scores_file, scores)
    device = probe.images.device
    source, kept = (faded(model, keep, config, round), live) if fades else (model, keep)
    shrunk = shrink(source, kept, multiple=multiple(device, config.precision))
    pruned = prepared(shrunk.net, device)
    after = measure_flow(pruned, probe.images, probe.labels, temperature)
    _restore_statistics(shrunk, trained)
    refreshed = with_statistics_of(pruned, scoring.images)
    met = measure_flow(refreshed, probe.images, probe.labels, temperature, second_order=False)
    if not any(met.g[f"{name}.weight"].any() for name in pruned.convs):
        raise CutError(COLLAPSED)
    alive = {name: layer[live[name]] for name, layer in scores[config.measure].items()}
    row = {
        "round": round,
        "epoch": state.epoch,
        "kept": {name: int(mask.sum()) for name, mask in pruned.masks().items()},
        "before": before.numbers,
        "after": after.numbers,
        "after_fresh": {key: met.numbers[key] for key in ("loss", "accuracy", "grad_norm")},
        "predicted": predicted_changes(model, shrunk.masked, before),
        "actual": {
            "loss_change": after.numbers["loss"] - before.numbers["loss"],
            "grad_norm_sq_change": after.numbers["grad_norm"] ** 2
            - before.numbers["grad_norm"] ** 2,
        },
        "scores": {
            name: {"min": float(s.min()), "mean": float(s.mean()), "max": float(s.max())}
            for name, s in alive.items()
        },
        "agreement": agreement(scores, model),
        "score_seconds": score_seconds,
    }
    _adopt(state, shrunk, config)
    row["seconds"] = time.perf_counter() - start
    state.seconds += row["seconds"]
    state.cuts.append(row)
    return row


def scored_net(trained: Net, problem: Problem, config: RunConfig) -> Net:
    """The net with the batch-norm statistics that `score_bn` chooses; `trained` is left as it
    is."""
    fresh = config.score_bn == "fresh"
    return with_statistics_of(trained, problem.scoring.images) if fresh else trained


def sampled(scores: Scores, model: Net, config: RunConfig, round: int) -> Scores:
    """Scores with the noise that the run's `sampling` asks for.

    Sampling from a Gibbs distribution keeps a filter of energy e with the probability 1 / (1 +
    exp(-e / t)), which is to keep it where e + t logit(u) > 0, u uniform. Here that sum ranks the
    filters, and the temperature t is (n - k) / n standard deviations of the scores of the layer's
    live filters in round k of n. Source: Labach & Valaee, 2021 (Gibbs distributions), who lower t
    while a net is trained.
    """
    if config.sampling == "none":
        return scores
    draw = generator(stream_seed("sampling", config, epoch=round))
    share = (config.rounds - round) / config.rounds
    noisy = {}
    for name, layer in scores.items():
        uniform = torch.rand(len(layer), generator=draw, dtype=torch.float64)
        noise = uniform.logit(eps=1e-9).to(layer)
        noisy[name] = layer + share * layer[model.mask(name)].std(correction=0) * noise
    return noisy


@torch.no_grad()
def faded(model: Net, keep: Keep, config: RunConfig, round: int) -> Net:
    """A copy of a net in which the parameters of the filters that are not kept (weights, scale,
    shift) are scaled by (n - k) / (n - k + 1) in round k of n.

    A filter that is chosen in all rounds so far has 1 - k/n of its parameters, but for training.
    Source: Wan et al., 2025 (pruning of diffusion models by gradient flow), by its abstract alone.
    """
    left = config.rounds - round
    result = copy.deepcopy(model)
    for name, kept in keep.items():
        for parameter in result.filter_parameters(name):
            parameter[~kept] *= left / (left + 1)
    return result


def ablated(scores: Scores, model: Net, config: RunConfig, round: int) -> Scores:
    """Scores as the run's ablation wants them: unchanged, permuted inside each layer (with
    `grouping=stream` alike in all layers that write a stream), or with the order inverted."""
    if config.ablation == "invert":
        return {name: -layer for name, layer in scores.items()}
    if config.ablation != "layer_shuffle":
        return scores
    draw = generator(stream_seed("layer_shuffle", config, epoch=round))
    shuffled, orders = {}, {}
    for name, layer in scores.items():
        live, conv = model.mask(name).nonzero().flatten(), model.convs[name]
        together = config.grouping == "stream" and not conv.follows
        key = (conv.writes if together else name, len(live))
        if key not in orders:
            orders[key] = torch.randperm(len(live), generator=draw)
        shuffled[name] = layer.clone()
        shuffled[name][live] = layer[live[orders[key].to(live.device)]]
    return shuffled


def predicted_changes(model: Net, masked: Net, before: Flow) -> dict[str, float]:
    """First-order changes of the loss and of |g|^2 when the parameters of `model` become those of
    `masked`: d.g and 2 d.(Hg), where d is -theta for the filters that are masked. before: the flow
    of `model`."""
    theta = parameters(model)
    step = {name: (p - theta[name]).detach() for name, p in parameters(masked).items()}
    return {
        "loss_change": float(dot(step, before.g)),
        "grad_norm_sq_change": 2 * float(dot(step, before.hg)),
    }


def _scores(
    model: Net, state: State, problem: Problem, config: RunConfig, *, every: bool
) -> dict[str, Scores]:
    names, round = [config.measure], len(state.cuts) + 1
    if every:
        left_out = (*names, "none", "oracle")
        names += [measure.name for measure in scorable(state) if measure.name not in left_out]
    measures = [load_measure(name) for name in names]
    needs_initial = any("initial" in measure.needs for measure in measures)
    images = problem.scoring.images
    if config.protocol == "paper" and problem.augment:
        images = augmented(images, stream_seed("scoring augment", config, "dataset", epoch=round))
    return score_all(
        model, measures, images, problem.scoring.labels,
        initial=initial_weights(config, state) if needs_initial else None,
        accumulated=state.accumulated if state.epoch else None,
        generator=generator(stream_seed("measure", config, "measure", epoch=round)),
    )  # fmt: skip


def _restore_statistics(shrunk: Shrunk, trained: Net) -> None:
    """Give the compact net the running batch-norm statistics of the net that is trained."""
    learned = dict(trained.named_parameters())
    statistics = {
        name: shrunk.part(name, tensor)
        for name, tensor in trained.state_dict().items()
        if name not in learned
    }
    shrunk.net.load_state_dict(statistics, strict=False)


def _adopt(state: State, shrunk: Shrunk, config: RunConfig) -> None:
    """Make the compact net the one that is trained."""
    net = shrunk.net
    if config.ablation == "reinit":
        new = reinitialised(config, net, len(state.cuts) + 1)
        net.load_state_dict(new.state_dict())
        mask_filters(net, net.masks())
        state.accumulated = state.accumulated and no_gradients(net)
    elif state.accumulated:
        state.accumulated = {
            name: total[shrunk.rows[f"{name}.weight"][0]]
            for name, total in state.accumulated.items()
        }
    optimizer = make_optimizer(net, config)
    if config.cut_momentum == "carry" and config.ablation != "reinit":
        carry_momentum(state, shrunk, optimizer)
    state.origin = {
        stream: state.origin[stream][kept.cpu()] for stream, kept in shrunk.channels.items()
    }
    state.model, state.optimizer, state.step, state.cost = net, optimizer, None, None


def _write_scores(path: Path, scores: dict[str, Scores]) -> None:
    """Write scores to the disk before a checkpoint says that the cut was made, because no
    checkpoint holds them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays = {
        f"{m}/{conv}": s.cpu().numpy() for m, layers in scores.items() for conv, s in layers.items()
    }
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
    sync(path.parent)
