"""`python -m benchmark.descent`: are the identities of gradient flow true of gradient descent?

A net is trained for a few epochs. Then gradient descent in evaluation mode starts from it with
falling step sizes, and SGD in training mode beside it. `python -m analysis descent` draws the
result. `descent.json` has

- `config`: the fields of the command; `trained`: the last row of the dense training
- `flow`: the flow quantities of the net, in float64, with batch-norm statistics of the probe set
- `followed`, `single`: gradient descent over one time in more and more steps, and single steps of
  falling size; each with `time`, `steps`, `change`, `predicted`, `error`, `kinks`
  (`training.descent.Followed`)
- `training_mode`: `cosine` (the largest |cos(w, g)| of a filter, in `training` and in `evaluation`
  mode), `steps` (one step of each size: `training.descent.Stepped`), `lr` and `courses` (an epoch
  of SGD: `training.descent.Course`)
- `filters`: columns with an entry per filter: `layer`, `conv`, `prunable`, `theta_g`, `theta_hg`
- `versions`, `commit`, `processor`, `threads`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.cli import guarded, parse
from benchmark.config import RunConfig
from benchmark.errors import UserError, require
from benchmark.files import write_json
from benchmark.options import Options
from benchmark.provenance import environment
from benchmark.schedule import step_lr

DESCRIPTION = (
    "Follow gradient descent at falling step sizes from a net that is trained first, and compare "
    "loss, |theta|^2 and |g|^2 with what gradient flow says."
)
FILE = "descent.json"
COUNTS = (1, 2, 4, 8)
"""Numbers of steps over one time."""
SINGLE = tuple(10.0**power for power in range(-8, 0))
"""Sizes of single steps."""
TRAINING = tuple(10.0**power for power in range(-4, 1))
"""Sizes of single steps in training mode."""


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where gradient descent starts, and how long it is followed."""

    out: Path = Path("descent")
    """Folder to write descent.json into."""
    arch: str = "vgg13"
    """Architecture."""
    dataset: str = "digits"
    """Data set."""
    width: float = 0.125
    """Factor on the number of filters of every layer."""
    epochs: int = 5
    """Epochs of dense training first (0: the initial net)."""
    train_limit: int = 0
    """Train on this many images only, class-balanced (0: all)."""
    probe_samples: int = 128
    """Training images that gradient descent in evaluation mode is about, class-balanced."""
    time: float = 1e-3
    """Time that gradient descent is followed for, the sum of its steps."""
    seed: int = 0
    """Seed of initial weights and data order."""
    data: Path = Path("data")
    """Folder of the data sets."""
    threads: int = 1
    """CPU threads."""

    def config(self) -> RunConfig:
        """The dense run. Raises `UserError` for a value that is not allowed."""
        require(self.epochs >= 0, "epochs", self.epochs, "at least 0")
        require(0 < self.time < float("inf"), "time", self.time, "above 0 and finite")
        return RunConfig(
            measure="none",
            arch=self.arch,
            dataset=self.dataset,
            width=self.width,
            epochs=max(self.epochs, 1),
            train_limit=self.train_limit,
            probe_samples=self.probe_samples,
            seed=self.seed,
        )


def execute(command: Descent) -> None:
    """Train, follow, write `descent.json`."""
    config, options = command.config(), Options(device="cpu", threads=command.threads)
    config.check_components()
    command.out.mkdir(parents=True, exist_ok=True)
    options.prepare()
    record = measured(command, config)
    write_json(command.out / FILE, record)
    last = record["followed"][-1]["error"]
    print(
        f"after {COUNTS[-1]} steps over {command.time:g}: the error is {last['loss']:.1e} of the "
        f"loss, {last['weight_norm_sq']:.1e} of |theta|^2, {last['filter_norm_sq']:.1e} of |w|^2 "
        f"of the filters, {last['grad_norm_sq']:.1e} of |g|^2; all numbers in {command.out / FILE}"
    )


def measured(command: Descent, config: RunConfig) -> dict:
    """The contents of `descent.json`."""
    import torch

    from benchmark.data._batches import batches, drawn_epoch
    from benchmark.flow import with_statistics_of
    from benchmark.training.dense import start as untrained
    from benchmark.training.descent import filter_products, follow, train_course, train_steps
    from benchmark.training.epoch import advance
    from benchmark.training.problem import make_problem
    from benchmark.training.steps import finished

    problem = make_problem(config, command.data, torch.device("cpu"))
    state = untrained(config, problem)
    for epoch in range(command.epochs):
        lr = step_lr(config.lr, epoch, config.epochs)
        row = finished(advance(state, problem, config, lr, flow_every=command.epochs + 1))
        if row["train/loss"] is None or not row["train/loss"] < float("inf"):
            raise UserError(f"training diverged in epoch {epoch + 1}: there is no net to start at")
    net = with_statistics_of(state.model, problem.probe.images)
    followed = [(command.time, steps) for steps in COUNTS]
    plan = [*followed, *((step, 1) for step in SINGLE)]
    flow, results = follow(net, problem.probe, config.temperature, plan)
    results = [asdict(result) for result in results]

    drawn = drawn_epoch(
        problem.train.images, problem.train.labels,
        order_seed=config.seed, augment_seed=config.seed if problem.augment else None,
    )  # fmt: skip
    seen = list(batches(drawn, config.batch_size))
    trained, evaluated, steps = train_steps(net, flow, seen[0], config.temperature, TRAINING)
    courses = [
        train_course(net, seen, config.temperature, config.lr, decay)
        for decay in (0.0, config.weight_decay)
    ]
    layers = [(name, layer) for layer, name in enumerate(net.convs) for _ in range(net.plan[name])]
    return {
        "config": asdict(command) | {"out": str(command.out), "data": str(command.data)},
        "trained": state.history[-1],
        "flow": flow.numbers,
        "followed": results[: len(followed)],
        "single": results[len(followed) :],
        "training_mode": {
            "cosine": {"training": trained, "evaluation": evaluated},
            "steps": [asdict(step) for step in steps],
            "lr": config.lr,
            "courses": [asdict(course) for course in courses],
        },
        "filters": {
            "layer": [layer for _, layer in layers],
            "conv": [name for name, _ in layers],
            "prunable": [net.convs[name].prunable for name, _ in layers],
            "theta_g": filter_products(net, flow.g).tolist(),
            "theta_hg": filter_products(net, flow.hg).tolist(),
        },
        **environment(),
    }


if __name__ == "__main__":
    command = parse(Descent, "python -m benchmark.descent", DESCRIPTION)
    guarded(lambda: execute(command))
