"""How runs are pulled from W&B: arguments of the command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmark.config import TRAINED
from benchmark.errors import UserError, require, shortened
from benchmark.fields import assignment, field_value

PREFIX = "wandb:"
"""What a source begins with that is a W&B project."""


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Which runs of a W&B project, and where copies of them lie."""

    filter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE|JSON")] = ()
    """Runs of a W&B project to use: field=value (or field=one,two) for each field, or one filter in
    W&B's JSON."""
    offline: tyro.conf.FlagCreatePairsOff[bool] = False
    """Use the runs of a W&B project that were pulled before, without any network."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for copies of pulled runs (default: in the user's cache folder)."""

    def conditions(self) -> dict:
        """The filter in W&B's language. Raises `UserError` for one that is not understood."""
        if len(self.filter) == 1 and self.filter[0].lstrip().startswith("{"):
            return _parsed(self.filter[0])
        return dict(_condition(text) for text in self.filter)

    def folder(self) -> Path:
        """Where copies of pulled runs lie."""
        from platformdirs import user_cache_path  # here, so that --help is quick

        return self.cache or user_cache_path("flowprune") / "wandb"


def _parsed(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"filter {shortened(text)!r} is not valid JSON ({error})") from None
    except RecursionError:
        raise UserError(f"filter {shortened(text)!r} is nested too deeply") from None


def _condition(text: str) -> tuple[str, object]:
    """`seed=0,1` -> ("config.seed", {"$in": [0, 1]})"""
    name, values = assignment(text, "filter", "a JSON object, or FIELD=VALUE")
    wanted = [filter_value(name, value) for value in values.split(",")]
    return f"config.{name}", wanted[0] if len(wanted) == 1 else {"$in": wanted}


def filter_value(name: str, text: str) -> object:
    """The value of a field to filter by. Raises `UserError` if the field cannot have it.

    W&B runs of agents have the text `trained` as their `prune_epoch`, others the number of epochs:
    no filter finds both.
    """
    allowed = "a number of epochs (runs that are cut after training have retrain=restart)"
    require((name, text) != ("prune_epoch", TRAINED), "filter prune_epoch", text, allowed)
    return field_value(name, text)
