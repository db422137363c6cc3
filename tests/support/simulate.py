"""A seeded simulator of run records in the real format, with effects planted where a test wants
them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import numpy as np

from benchmark.config import RULES, RunConfig
from benchmark.files import write_json, write_lines
from benchmark.record import HISTORY_KEYS, LATENCY_KEYS, PROBE_KEYS, PROBE_SHARES, Record
from benchmark.schedule import kept_fraction, schedule

MEASURES = ("magnitude", "loss", "grasp", "grad_preservation", "random")
CLAIMED = (*MEASURES, "grasp_t1")
PROBED = (*CLAIMED, "loss_biased")
FAMILY = {"loss_biased": "loss", "taylor": "loss"}
PLAN = {
    f"features.{layer}": filters
    for layer, filters in zip((0, 3, 7, 10, 14, 17), (8, 8, 16, 16, 32, 32), strict=True)
}
CHANCE = np.log(10)


@dataclass(frozen=True)
class World:
    """How the simulated runs come out. Effects are per measure; what is not named has none."""

    loss: dict[str, float] = field(default_factory=dict)
    """Shift of the training loss after the last cut, in nats."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Shift of the final test accuracy."""
    growth: dict[str, float] = field(default_factory=dict)
    """Change of log10 |g| at each cut."""
    jump: dict[str, float] = field(default_factory=dict)
    """Decades by which the loss changes more at a cut than the 0.2 nats it otherwise rises by."""
    change: dict[str, float] = field(default_factory=dict)
    """Shift of the change of the loss at a cut probe, in nats per 20 % of the filters."""
    shift: dict[str, float] = field(default_factory=dict)
    """Shift of the sizes of the changes of both time-derivatives at a cut probe, in nats per
    20 %."""
    rho: float = 0.0
    """Rank correlation of theta.Hg with theta.g of the filters."""
    agreement: bool = False
    """Whether every run recorded the scores of other measures, and of `oracle`, at its cuts."""
    noise: float = 0.01
    """Standard deviation between runs, of loss (nats) and accuracy alike; ten times as much of
    decades and ranks."""
    diverged: tuple[str, ...] = ()
    """Measures whose runs end with a loss that is no number, one epoch after the last cut."""
    flow_every: int = 1
    """Epochs between measurements of the gradient flow."""


def grid(
    *,
    measures: Sequence[str] = MEASURES,
    archs: Sequence[str] = ("vgg13",),
    datasets: Sequence[str] = ("digits",),
    timings: Sequence[int | str] = (0, 4),
    rounds: Sequence[int] = (1,),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    dense: bool = True,
    **fields: object,
) -> list[RunConfig]:
    """The runs of a full grid, the dense control among them; other fields of the run can be
    given."""
    names = [*measures, "none"] if dense else measures
    configs = [
        RunConfig(
            measure=m, arch=a, dataset=d, prune_epoch=t, rounds=r, seed=s, epochs=epochs, **fields
        )
        for m, a, d, t, r, s in product(names, archs, datasets, timings, rounds, seeds)
    ]
    return list({config.run_id: config.canonical() for config in configs}.values())


def study(
    *, seeds: Sequence[int] = range(5), archs: Sequence[str] = ("vgg13",), **fields: object
) -> list[RunConfig]:
    """The runs that decide all claims: pruned to equal MACs, dense controls, and cut probes. One
    timing unless others are given."""
    fields = {"timings": (4,)} | fields
    pruned = grid(measures=CLAIMED, archs=archs, seeds=seeds, budget="macs", **fields)
    layerwise = grid(
        measures=["random"], archs=archs, seeds=seeds, budget="macs", allocation="magnitude",
        dense=False, **fields,
    )  # fmt: skip
    probing = grid(
        measures=["none"], archs=archs, seeds=seeds, probe_epochs="1,8", dense=False, **fields
    )
    return [*pruned, *layerwise, *probing]


def simulate(
    runs: Path, configs: Sequence[RunConfig], world: World | None = None, *, finished: bool = True
) -> None:
    """Write the records of these runs into the folder `runs`; without `finished` they lack their
    summary."""
    for config in configs:
        write_run(Path(runs), config.canonical(), world or World(), finished=finished)


def write_run(runs: Path, config: RunConfig, world: World, *, finished: bool) -> None:
    """Write the record of one run."""
    own = np.random.default_rng(zlib.crc32(config.run_id.encode()))
    shared = np.random.default_rng(
        [config.seed, zlib.crc32(f"{config.arch} {config.dataset}".encode())]
    )
    timetable, name = schedule(config), config.measure
    luck, noise = shared.normal(0, 0.02), own.normal(0, world.noise, size=2)
    last_cut = timetable.cuts[-1] if timetable.cuts else timetable.total
    total = min(timetable.total, last_cut + 1) if name in world.diverged else timetable.total
    history = []
    for epoch in range(total + 1):
        loss = 0.3 + (CHANCE - 0.3) * np.exp(-0.6 * epoch * 10 / timetable.total) + luck
        shift = world.loss.get(name, 0.0) + noise[0] if epoch > last_cut else 0.0
        accuracy = 0.1 + 0.85 * (1 - np.exp(-8 * epoch / timetable.total)) + luck / 2
        accuracy += (world.accuracy.get(name, 0.0) + noise[1]) * (
            epoch > last_cut or name == "none"
        )
        history.append(_row(config, world, epoch, loss + shift, accuracy, timetable.lr(epoch)))
        if epoch > last_cut:
            history[-1]["time/images_per_second"] = float(own.normal(4000, 100))
    if name in world.diverged:
        history[-1] |= dict.fromkeys(("train/loss", "test/loss", "flow/grad_norm", "flow/theta_g"))
    cuts = [
        _cut(config, world, own, history, round, epoch)
        for round, epoch in enumerate(timetable.cuts, start=1)
    ]
    record = Record(runs / config.run_id)
    record.folder.mkdir(parents=True, exist_ok=True)
    write_json(record.config_file, {"rules": RULES, **config.to_dict()})
    write_lines(record.history_file, history)
    write_lines(record.cuts_file, cuts)
    if config.probed:
        rows = [row for epoch in config.probed for row in _probes(world, own, history[epoch])]
        write_lines(record.probes_file, rows)
        write_lines(record.probe_ranks_file, _probe_ranks(config, world, own))
    if finished:
        write_json(record.summary_file, _summary(config, world, history, cuts))


def _row(
    config: RunConfig, world: World, epoch: int, loss: float, accuracy: float, lr: float
) -> dict:
    trained = epoch > 0
    flow = epoch % world.flow_every == 0
    values = {
        "epoch": epoch,
        "train/loss": float(loss) if trained else None,
        "train/accuracy": float(min(accuracy + 0.02, 1)) if trained else None,
        "test/loss": float(loss) * 1.1,
        "test/accuracy": float(np.clip(accuracy, 0, 1)),
        "lr": lr,
        "net/filters": sum(PLAN.values()),
        "net/params": 100_000,
        "net/macs": 1_000_000,
        "time/seconds": 0.5 * epoch,
        "time/images_per_second": 3000.0 if trained else None,
        "flow/grad_norm": float(loss) if flow else None,
        "flow/weight_norm_sq": 300.0 + 10 * float(np.log1p(epoch)) if flow else None,
        "flow/theta_g": -0.1 * float(loss) if flow else None,
        "flow/theta_hg": 0.02 * float(loss) if flow else None,
        "flow/g_hg": 0.01 * float(loss) if flow else None,
    }
    return {key: values[key] for key in HISTORY_KEYS}


def _cut(
    config: RunConfig,
    world: World,
    own: np.random.Generator,
    history: list[dict],
    round: int,
    epoch: int,
) -> dict:
    now = history[epoch]
    planted = [effects.get(config.measure, 0.0) for effects in (world.growth, world.jump)]
    growth, jump = (float(effect + own.normal(0, 10 * world.noise)) for effect in planted)
    before = _state(now["test/loss"], now["test/accuracy"], 1.0)
    after = _state(now["test/loss"] + 0.2 * 10**jump, now["test/accuracy"] / 2, 10**growth)
    actual = {
        "loss_change": after["loss"] - before["loss"],
        "grad_norm_sq_change": after["grad_norm"] ** 2 - before["grad_norm"] ** 2,
    }
    return {
        "round": round,
        "epoch": epoch,
        "kept": _kept(config, round),
        "before": before,
        "after": after,
        "after_fresh": {key: after[key] for key in ("loss", "accuracy", "grad_norm")},
        "predicted": {key: value * own.uniform(0.5, 1.5) for key, value in actual.items()},
        "actual": actual,
        "scores": {conv: {"min": 0.0, "mean": 0.5, "max": 1.0} for conv in PLAN},
        "agreement": _agreement(own, epoch) if world.agreement else {},
        "seconds": 0.1,
        "score_seconds": 0.05,
    }


def _probes(world: World, own: np.random.Generator, row: dict) -> Iterator[dict]:
    """The probes of an epoch: the loss rises by 0.2 nats at 20 % of the filters, and effects."""
    before = _state(row["test/loss"], 0.5, 1.0)
    for share, name in product(PROBE_SHARES, PROBED):
        for draw in range(2 if name == "random" else 1):
            size = share / 0.2
            noise = own.normal(0, world.noise, size=2)
            after = _state(
                before["loss"] + size * (0.2 + world.change.get(name, 0.0)) + noise[0], 0.4, 1.0
            )
            turn = size * (0.3 + world.shift.get(name, 0.0)) + abs(noise[1])
            after |= {"theta_g": before["theta_g"] - turn, "theta_hg": before["theta_hg"] + turn}
            rise = after["loss"] - before["loss"]
            yield {
                "epoch": row["epoch"],
                "measure": name,
                "share": share,
                "draw": draw,
                "kept_macs": 1 - share,
                "before": {key: before[key] for key in PROBE_KEYS},
                "after": {
                    key: None if draw and key != "loss" else after[key] for key in PROBE_KEYS
                },
                "predicted": {"loss_change": rise * 0.8, "grad_norm_sq_change": 0.1 * size},
                "actual": {
                    "loss_change": rise,
                    "grad_norm_sq_change": None if draw else 0.1 * size,
                },
                "seconds": 0.01,
            }


def _probe_ranks(config: RunConfig, world: World, own: np.random.Generator) -> list[dict]:
    centers = {
        ("theta_g", "theta_hg"): world.rho, ("loss", "loss_biased"): 0.8, ("loss", "magnitude"): 0.0
    }  # fmt: skip
    return [
        {"epoch": epoch, "a": a, "b": b, "rho": float(np.clip(own.normal(rho, 0.05), -1, 1))}
        for epoch in config.probed
        for (a, b), rho in centers.items()
    ]


def _agreement(own: np.random.Generator, epoch: int) -> dict[str, float]:
    """Correlations that are 0 between families, fade from 0.8 within them, and are 0.5 with the
    oracle."""
    found = {}
    for a, b in combinations(sorted([*MEASURES, *FAMILY, "oracle"]), 2):
        families = {FAMILY.get(a, a), FAMILY.get(b, b)}
        center = 0.5 if "oracle" in (a, b) else 0.8 - 0.01 * epoch if len(families) == 1 else 0.0
        found[f"{a}|{b}"] = float(np.clip(own.normal(center, 0.05), -1, 1))
    return found


def _state(loss: float, accuracy: float, grad_norm: float) -> dict:
    norms = {
        "weight_norm_sq": 300.0,
        "theta_g": -0.1 * grad_norm,
        "theta_hg": 0.02 * grad_norm,
        "g_hg": 0.01,
    }
    return {"loss": loss, "accuracy": accuracy, "grad_norm": grad_norm, **norms}


def _kept(config: RunConfig, round: int) -> dict[str, int]:
    fraction = kept_fraction(config.ratio, round, config.rounds)
    tilt = zlib.crc32(config.measure.encode()) % 7 / 10 - 0.3
    places = np.linspace(-1, 1, len(PLAN))
    return {
        conv: int(np.clip(width * fraction * (1 + tilt * place) + 0.5, 1, width))
        for (conv, width), place in zip(PLAN.items(), places, strict=True)
    }


def _summary(config: RunConfig, world: World, history: list[dict], cuts: list[dict]) -> dict:
    kept = cuts[-1]["kept"] if cuts else PLAN
    size = {"net/filters": sum(PLAN.values()), "net/params": 100_000, "net/macs": 1_000_000}
    share = sum(kept.values()) / size["net/filters"]
    return {
        "run_id": config.run_id,
        "cell": config.cell,
        "outcome": "diverged" if config.measure in world.diverged else "finished",
        **history[-1],
        "before": size,
        "after": {key: int(value * share) for key, value in size.items()},
        "plan": {"before": PLAN, "after": kept},
        "samples": {"train": 1433, "test": 364, "probe": 512, "scoring": 1433, "overlap": 512},
        "classes": 10,
        "data": "0123456789ab",
        "versions": {"flowprune": "0.2.0", "python": "3.11.0", "torch": "2.0.0"},
        "commit": "",
        "processor": "simulated",
        "threads": 1,
        "device": "simulated",
        "seconds": history[-1]["time/seconds"] + 0.1 * len(cuts),
        **dict(zip(LATENCY_KEYS, (0.5, 0.25, 0.5 * share, 0.25 * share), strict=True)),
    }
