"""What the three commands share: parsing with tyro, and one line with exit status 2 for bad input."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

from benchmark.errors import UserError

T = TypeVar("T")
BAD_INPUT = 2


def parse(kind: type[T] | Callable[..., T], prog: str, description: str, argv: Sequence[str] | None = None) -> T:
    """Parse the command line into `kind`; bad input ends the process with one line and exit status 2."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=argv)
    except UserError as error:
        fail(error)
    except SystemExit as end:
        if end.code != BAD_INPUT:
            raise
        cause: BaseException | None = end
        while cause := cause.__context__:
            if isinstance(cause, UserError):
                fail(cause)
        box = complaint.getvalue().partition("\n")[2]
        sentence = box.partition("───")[0].replace("│", " ")
        fail(f"{' '.join(sentence.split())} (see {prog} --help)")


def guarded(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with its status; bad input ends it with one line and exit status 2."""
    try:
        status = command()
    except UserError as error:
        fail(error)
    sys.exit(status or 0)


def fail(message: object) -> NoReturn:
    """Print one line and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)
