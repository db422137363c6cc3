"""Errors that the user can mend: bad input, or too small a machine."""

from __future__ import annotations

from collections.abc import Collection

MOST_SHOWN = 200
"""Characters of a bad value that a message shows."""
OUT_OF_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED", "unable to find an engine")
"""What errors of torch say when memory ran out; the last two are those of cuBLAS and cuDNN."""


class UserError(ValueError):
    """Bad input. The message is one line: the thing, its value, and what is allowed."""


class ShortageError(UserError):
    """Memory, or the permission to read a file, is missing: another attempt with the same input may
    succeed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch raises RuntimeErrors, which only say so in
    their text, and an error of a capture may hide the one that ended it."""
    hidden = error.__context__
    if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
        return True
    return hidden is not None and is_out_of_memory(hidden)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(text: object) -> str:
    """A text, or an error's message, without line breaks and runs of spaces."""
    return " ".join(str(text).split())


def shortened(text: str) -> str:
    """The beginning of a text, short enough for a message."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(f"{name} must be {allowed}, got {shortened(repr(value))}")


def require_one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise `UserError` unless `value` is one of the allowed ones."""
    require(value in allowed, name, value, "one of " + ", ".join(allowed))
