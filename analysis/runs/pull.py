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
"""Beginning of a source that is a W&B project."""


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Which runs of a W&B project to use, and where copies of them are kept."""

    filter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE|JSON")] = ()
    """Runs of a W&B project to use: field=value (or field=one,two) for each field, or one filter in
    W&B's JSON."""
    offline: tyro.conf.FlagCreatePairsOff[bool] = False
    """Use the runs of a W&B project that were pulled before; needs no network."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for copies of pulled runs (default: in the user's cache folder)."""

    def conditions(self) -> dict:
        """The filter in W&B's language. Raises `UserError` for an invalid one."""
        if len(self.filter) != 1 or not self.filter[0].lstrip().startswith("{"):
            return dict(_condition(text) for text in self.filter)
        try:
            return json.loads(self.filter[0])
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
            text = shortened(self.filter[0])
            raise UserError(f"filter {text!r} is not valid JSON ({error})") from None

    def folder(self) -> Path:
        """Where copies of pulled runs are kept."""
        from platformdirs import user_cache_path  # here, so that --help is quick

        return self.cache or user_cache_path("flowprune") / "wandb"


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
