"""How runs are pulled from W&B: arguments of the command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmark.config import DEFAULTS, RULES, TRAINED
from benchmark.errors import UserError, require, shortened

PREFIX = "wandb:"
"""The start of the name of a source that is a W&B project."""
KINDS = {name: type(value) for name, value in DEFAULTS.items()} | {
    "run_id": str,
    "cell": str,
    "rules": type(RULES),
}
"""What W&B runs can be filtered by, with the type of its values."""
EPOCHS_ALONE = "a number of epochs (runs that are cut after training have retrain=restart)"
"""The values of `prune_epoch` that a filter may have. W&B has the text `trained` for runs of agents
alone."""


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
    name, equals, values = text.partition("=")
    if not equals or name not in KINDS:
        allowed = f"field=value with a field among {', '.join(KINDS)}; or a JSON object"
        raise UserError(f"filter must be {allowed}, got {text!r}")
    require(
        name != "prune_epoch" or TRAINED not in values.split(","),
        "filter prune_epoch",
        values,
        EPOCHS_ALONE,
    )
    wanted = [field_value(name, value, "filter") for value in values.split(",")]
    return f"config.{name}", wanted[0] if len(wanted) == 1 else {"$in": wanted}


def field_value(name: str, text: str, what: str) -> object:
    """The value of a run's field that a text stands for. Raises `UserError` for one of another
    type."""
    kind = KINDS.get(name, str)
    if name == "prune_epoch" and text == TRAINED:
        return text
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{what} {name} must be a {kind.__name__}, got {text!r}") from None
