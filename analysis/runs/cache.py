"""Copies of pulled W&B runs, so that a second pull is quick and an offline one is possible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import quote

from analysis.runs.wandb_run import Mirror
from benchmark.errors import UserError
from benchmark.files import short_digest, write_atomically

PULL = {"filter", "runs"}
"""The keys of a file of a pull."""


class PullCache:
    """Files under `<root>/<server>/<entity>/<project>/`.

    `runs/<W&B id>.json`: a run with its history and files, valid while the server gives the same
    id, state, time of update and number of rows. `pulls/<digest>.json`: a filter, and the ids of
    the runs that met it at the last pull.
    """

    def __init__(self, root: Path, server: str, entity: str, project: str) -> None:
        parts = (server.partition("://")[2], entity, project)
        self.folder = Path(root).joinpath(*(quote(part, safe="") for part in parts))
        self.place = f"{entity}/{project}"

    def completed(self, mirror: Mirror) -> Mirror | None:
        """The run with its history and files, if the copy of it is up to date."""
        kept = self._read(mirror.id)
        if kept is None or _key(kept) != _key(mirror):
            return None
        return replace(mirror, history=kept.history, files=kept.files)

    def keep(self, mirror: Mirror) -> None:
        """Keep a copy of a run."""
        if self._read(mirror.id) != mirror:
            _write(self._run_file(mirror.id), vars(mirror))

    def keep_pull(self, conditions: dict, ids: Sequence[str]) -> None:
        """Note which runs met a filter."""
        _write(self._pull_file(conditions), {"filter": conditions, "runs": list(ids)})

    def add_to_pull(self, conditions: dict, ids: Sequence[str]) -> None:
        """Add the runs that a failed pull got to those of the last pull with this filter."""
        before = _parsed(self._pull_file(conditions), PULL) or {"runs": []}
        if both := list(dict.fromkeys([*before["runs"], *ids])):
            self.keep_pull(conditions, both)

    def pulled(self, conditions: dict) -> list[Mirror]:
        """The runs of the last pull with this filter. Raises `UserError` if there was none, or a
        file is broken."""
        file = self._pull_file(conditions)
        pull = _parsed(file, PULL)
        if pull is None:
            found = [
                json.dumps(other["filter"])
                for path in sorted((self.folder / "pulls").glob("*.json"))
                if (other := _parsed(path, PULL))
            ]
            known = (
                f"it has pulls with the filters {', '.join(found)}"
                if found
                else "it has none of this project"
            )
            met = f" with the filter {json.dumps(conditions)}" if conditions else ""
            raise UserError(
                f"cache {self.folder} has no pull of W&B project {self.place}{met}: {known}"
            )
        mirrors = [(name, self._read(name)) for name in pull["runs"]]
        for name, mirror in mirrors:
            if mirror is None:
                raise UserError(
                    f"cache file {self._run_file(name)} is missing or broken: pull without "
                    "--offline"
                )
        return [mirror for _, mirror in mirrors]

    def _read(self, name: str) -> Mirror | None:
        content = _parsed(self._run_file(name), {field.name for field in fields(Mirror)})
        return None if content is None else Mirror(**content)

    def _run_file(self, name: str) -> Path:
        return self.folder / "runs" / f"{quote(name, safe='')}.json"

    def _pull_file(self, conditions: dict) -> Path:
        name = short_digest(json.dumps(conditions, sort_keys=True).encode())
        return self.folder / "pulls" / f"{name}.json"


def _key(mirror: Mirror) -> tuple:
    return mirror.id, mirror.state, mirror.updated, mirror.lines


def _write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value).encode())


def _parsed(path: Path, keys: set[str]) -> dict | None:
    """What `_write` wrote; None if that is missing, broken, or has other keys."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() == keys else None
