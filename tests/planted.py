"""Runs put into the test server as the tracker would leave them there, without wandb."""

import json

from benchmark.record import Record
from benchmark.track import flatten
from tests.wandb_server import ENTITY, HISTORY, Run, Server


def plant(server: Server, record: Record, project: str, name: str | None = None, **fields: object) -> Run:
    """Put a finished record into a project, under its run_id or another name of a W&B run."""
    config, cuts, summary = record.config(), {cut["epoch"]: cut for cut in record.cuts()}, record.summary()
    run = Run(ENTITY, project, name or config.run_id, state="finished", exitcode=0, group=config.cell)
    named = {**config.to_dict(), "run_id": config.run_id, "cell": config.cell}
    run.raw_config = {key: {"value": value} for key, value in named.items()}
    rows = [
        row | {f"cut/{k}": v for k, v in flatten(cuts.get(row["epoch"], {})).items() if k != "epoch"}
        for row in record.history()
    ]
    run.lines[HISTORY] = dict(enumerate(json.dumps(_sent(row) | {"_step": step}) for step, row in enumerate(rows)))
    run.summary = _sent(flatten(summary)) | {"plan/convs": list(summary["plan"]["before"])}
    for key, value in fields.items():
        setattr(run, key, value)
    server.runs.append(run)
    return run


def _sent(values: dict) -> dict:
    """Without nulls, and without the order of the keys; 7.0 becomes 7."""
    plain = {
        key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items() if v is not None
    }
    return dict(sorted(plain.items()))
