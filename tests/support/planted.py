"""Puts runs into the test server as the tracker would, without the wandb client."""

import json

from benchmark.config import RULES
from benchmark.record import Record
from benchmark.tracking.tracker import flatten, numbers
from tests.support.wandb_server import ENTITY, HISTORY, Run, Server


def plant(
    server: Server, record: Record, project: str, name: str | None = None, **fields: object
) -> Run:
    """Put a finished record into a project, under its run_id or the W&B id `name`."""
    config, cuts = record.config(), {cut["epoch"]: cut for cut in record.cuts()}
    run = Run(
        ENTITY, project, name or config.run_id, state="finished", exitcode=0, group=config.cell
    )
    named = {**config.to_dict(), "run_id": config.run_id, "cell": config.cell, "rules": RULES}
    run.raw_config = {key: {"value": value} for key, value in _returned(named).items()}
    run.raw_config["_wandb"] = {
        "value": {"t": {"12": "0.31.0"}}
    }  # without it wandb does not resume the run
    rows = [_returned(row_values(row, cuts.get(row["epoch"]))) for row in record.history()]
    run.lines[HISTORY] = {row["epoch"]: json.dumps(row | {"_step": row["epoch"]}) for row in rows}
    run.summary = _returned(summary_values(record.summary()))
    for key, value in fields.items():
        setattr(run, key, value)
    server.runs.append(run)
    return run


def row_values(row: dict, cut: dict | None) -> dict[str, object]:
    """What W&B gets of an epoch and the cut made at it."""
    return numbers(
        row | {f"cut/{key}": value for key, value in flatten(cut or {}).items() if key != "epoch"}
    )


def summary_values(summary: dict) -> dict[str, object]:
    """What W&B gets of a summary."""
    return numbers(flatten(summary)) | {"plan/convs": list(summary["plan"]["before"])}


def _returned(values: dict) -> dict:
    """As a server returns them: in another order, and 7.0 as 7."""
    whole = {
        key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items()
    }
    return dict(sorted(whole.items()))
