"""Sources of runs, by name: folders, archives and W&B projects all give the same frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.runs import archive
from analysis.runs.folder import read_folder
from analysis.runs.frames import TABLES, UNFINISHED, Frames, to_frames
from analysis.runs.pull import PREFIX, Pull
from benchmark.errors import UserError, require

SHOWN = 5
"""Records left out that are named one by one."""


def load(source: str | Sequence[str], pull: Pull | None = None) -> Frames:
    """The tables (pandas) of a source of runs, or of several together.

    A source is a folder of run records, an archive (`analysis.runs.archive`), or a W&B project as
    `wandb:ENTITY/PROJECT`, pulled as `pull` says. A run that several sources have counts once.

    Records that cannot be read are left out, with a warning each. Raises `UserError` if there is no
    such source, or no finished run in it.
    """
    names, pull = [source] if isinstance(source, str) else list(source), pull or Pull()
    pulled = any(name.startswith(PREFIX) for name in names)
    allowed = f"{PREFIX}ENTITY/PROJECT if --filter, --offline or --cache is given"
    require(pulled or pull == Pull(), "source", names[0], allowed)
    frames = together([_read(name, pull) for name in names])
    if frames.finished().empty:
        raise UserError(_nothing(frames, several=len(names) > 1))
    for reason in frames.set_aside[:SHOWN]:
        print(f"warning: left out: {reason}", file=sys.stderr)
    if more := len(frames.set_aside[SHOWN:]):
        print(f"warning: left out: {more} more records", file=sys.stderr)
    return frames


def _read(source: str, pull: Pull) -> Frames:
    if source.startswith(PREFIX):
        from analysis.runs.wandb import pulled_runs  # here, because importing wandb takes a second

        return to_frames(*pulled_runs(source, pull), source)
    if not archive.is_archive(Path(source)):
        return read_folder(source)
    try:
        return archive.read(Path(source))
    except UserError as error:
        return to_frames((), (str(error),), source)


def _nothing(frames: Frames, *, several: bool) -> str:
    """Why a source has no finished run."""
    if frames.set_aside:
        first, *others = frames.set_aside
        return first + (f"; nor can {len(others)} more records be read" if others else "")
    pulled = frames.source.startswith(PREFIX)
    kind = "sources" if several else "W&B project" if pulled else "runs folder"
    found = f"{len(frames.runs)} unfinished" if len(frames.runs) else "none at all"
    return f"{kind} {frames.source} has no finished run ({found})"


def together(sources: Sequence[Frames]) -> Frames:
    """All runs of several sources, each from the first one in which it is finished (or else the
    first that has it). Raises `UserError` if they were made by different rules."""
    if len(sources) == 1:
        return sources[0]
    set_aside = tuple(reason for frames in sources for reason in frames.set_aside)
    filled = [frames for frames in sources if len(frames.runs)] or sources[:1]
    rules = {frames.source: set(frames.runs.get("rules", ())) for frames in filled}
    if len(set().union(*rules.values())) > 1:
        named = ", ".join(f"{source} by rules {min(found)}" for source, found in rules.items())
        raise UserError(
            f"sources must be made by the same rules to be analysed together, got {named}"
        )
    runs = pd.concat([frames.runs.assign(place=place) for place, frames in enumerate(filled)])
    runs = runs.assign(waiting=runs["outcome"] == UNFINISHED)
    chosen = runs.sort_values(["waiting", "place"], kind="stable").drop_duplicates("run_id")
    parts = [filled[place].only(ids) for place, ids in chosen.groupby("place")["run_id"]]
    parts = parts or list(filled)
    tables = {
        name: pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in TABLES
    }
    return Frames(" + ".join(frames.source for frames in filled), **tables, set_aside=set_aside)
