"""Puts runs into the test server as the tracker would, without the wandb client; and cut probes
into simulated records."""

import json

from benchmark.record import Record
from benchmark.tracking.rows import sent_config, sent_files, sent_rows, sent_summary
from tests.support.wandb_server import ENTITY, HISTORY, Run, Server


def plant(
    server: Server, record: Record, project: str, name: str | None = None, **fields: object
) -> Run:
    """Put a finished record into a project, under its run_id or the W&B id `name`."""
    config = record.config()
    run = Run(
        ENTITY, project, name or config.run_id, state="finished", exitcode=0, group=config.cell
    )
    values = _returned(sent_config(config))
    run.raw_config = {key: {"value": value} for key, value in values.items()}
    run.raw_config["_wandb"] = {
        "value": {"t": {"12": "0.31.0"}}
    }  # without it wandb does not resume the run
    rows = [_returned(row) for row in sent_rows(record.history(), record.cuts())]
    run.lines[HISTORY] = {row["epoch"]: json.dumps(row | {"_step": row["epoch"]}) for row in rows}
    run.files = sent_files(record)
    run.summary = _returned(sent_summary(record.summary(), run.files))
    for key, value in fields.items():
        setattr(run, key, value)
    server.runs.append(run)
    return run


def _returned(values: dict) -> dict:
    """As a server returns them: in another order, and 7.0 as 7."""
    whole = {
        key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items()
    }
    return dict(sorted(whole.items()))
