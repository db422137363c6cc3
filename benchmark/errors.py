"""What went wrong, when it is the input that is wrong, or the machine that is too small."""

from __future__ import annotations

from collections.abc import Collection

MOST_SHOWN = 200
"""Characters of a bad value that a message shows."""


class UserError(ValueError):
    """Bad input. The message is one line: the thing, its value, and what is allowed."""


class ShortageError(UserError):
    """What is missing is memory, or a right to read: the input may be good, and another attempt may
    succeed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch raises RuntimeErrors, which have it in their
    text alone."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shortened(text: str) -> str:
    """A text of any length as a message can hold it."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(f"{name} must be {allowed}, got {shortened(repr(value))}")


def require_one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise `UserError` unless `value` is one of the allowed ones."""
    require(value in allowed, name, value, "one of " + ", ".join(allowed))
