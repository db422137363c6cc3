"""Mirroring a run to Weights & Biases. Our files are the record; a tracker never changes a result."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmark.config import RunConfig

MODES = ("offline", "online", "disabled")
PROJECT = "flowprune"


class NoTracker:
    """`--wandb disabled`: nothing is sent, and wandb is not imported."""

    def log(self, row: dict, cut: dict | None = None) -> None:
        """Ignore an epoch."""

    def finish(self, summary: dict) -> None:
        """Ignore the end."""

    def abandon(self) -> None:
        """Ignore an interruption."""


class WandbTracker:
    """One W&B run per run, with our run id, the cell as its group, and one `log` call per epoch."""

    def __init__(self, config: RunConfig, runs: Path, mode: str) -> None:
        import wandb  # here, because importing it takes a second

        if mode == "offline":  # what an interrupted process left behind; the new file gets all rows again
            for stale in (runs / "wandb").glob(f"offline-run-*-{config.run_id}"):
                shutil.rmtree(stale)
        runs.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=PROJECT,
            id=config.run_id,
            name=config.label,
            group=config.cell,
            tags=[config.measure, config.arch, config.dataset.partition(":")[0]],
            config={**config.to_dict(), "run_id": config.run_id, "cell": config.cell},
            dir=runs,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
                x_save_requirements=False, disable_git=True, disable_code=True, x_transaction_log_flush_interval=1.0,
            ),
        )  # fmt: skip
        self.run.define_metric("*", step_metric="epoch")

    def log(self, row: dict, cut: dict | None = None) -> None:
        """Log one epoch, with the cut made at it."""
        values = row | {f"cut/{key}": value for key, value in flatten(cut or {}).items() if key != "epoch"}
        self.run.log({key: value for key, value in values.items() if value is not None})

    def finish(self, summary: dict) -> None:
        """Write the summary and close the run."""
        self.run.summary.update(flatten({k: v for k, v in summary.items() if v is not None}))
        self.run.finish()

    def abandon(self) -> None:
        """Close the run as failed: the process goes on, or ends, without finishing it."""
        self.run.finish(exit_code=1)


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """{"before": {"loss": 1}} -> {"before/loss": 1}"""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


Tracker = NoTracker | WandbTracker


def open_tracker(config: RunConfig, runs: Path, mode: str) -> Tracker:
    """The tracker for a mode: offline, online or disabled."""
    return NoTracker() if mode == "disabled" else WandbTracker(config, runs, mode)
