"""Fields of a run as people write them, FIELD=VALUE: on a command line, or in a sweep file."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import require

NAMED = {name: type(value) for name, value in DEFAULTS.items()} | {
    "run_id": str,
    "cell": str,
    "rules": type(RULES),
}
"""Fields of a run and what is derived from them, with the type of the values."""


def assignment(
    text: str, option: str, form: str = "FIELD=VALUE", known: Collection[str] = NAMED
) -> tuple[str, str]:
    """`seed=0` -> ("seed", "0"). Raises `UserError` if the text has not this form, or names a field
    that is not `known`."""
    name, equals, value = text.partition("=")
    allowed = f"{form} with a field among {', '.join(known)}"
    require(bool(equals) and name in known, option, text, allowed)
    return name, value


def field_value(name: str, text: str) -> object:
    """The value of a field of `NAMED` that a text stands for. Raises `UserError` if the field
    cannot have it."""
    value: object = text
    with contextlib.suppress(ValueError):
        value = NAMED[name](text)
    if name in DEFAULTS:
        alone = RunConfig(**{"measure": "none", name: value})  # its timing does not matter
        return getattr(alone, name)
    require(type(value) is NAMED[name], name, text, "a whole number")
    return value
