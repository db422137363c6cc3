"""What the commands share: parsing with tyro, `--version`, and one line with exit status 2 for bad
input."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from benchmark import __version__
from benchmark.errors import UserError, first_line, is_out_of_memory, one_line, shortened

T = TypeVar("T")
BAD_INPUT = 2
PIPE_CLOSED = 128 + 13
"""The exit status of a process that SIGPIPE ends."""
UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EFBIG,
)  # fmt: skip
"""Errors of a full disk, or of a folder that cannot be written to."""
NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.EILSEQ, errno.EISDIR)
"""Errors of an impossible path: too long, links in a circle, a dangling link instead of a folder,
a folder instead of a file."""


def parse(
    kind: type[T] | Callable[..., T], prog: str, description: str, argv: Sequence[str] | None = None
) -> T:
    """Parse the command line into `kind`; bad input ends the process with one line and exit status
    2, `--version` with 0."""
    argv = sys.argv[1:] if argv is None else argv
    if "--version" in argv:
        print(f"flowprune {__version__}")
        sys.exit()
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
        # tyro prints its message in a box, and its hook for errors is private and may change
        box = complaint.getvalue().partition("\n")[2]
        sentence = box.partition("───")[0].replace("│", " ")
        fail(f"{one_line(sentence)} (see {prog} --help)")


def check_file(name: str, path: Path | None) -> None:
    """Raise `UserError` unless a file can be written there (None: no file is wanted)."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"{name} must be a file in a folder that exists, got {path}")


def guarded(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with the status that it returns (None: 0). Warnings are one line.

    After bad input, a lack of memory or disk space, or a folder that cannot be written to, print
    one line and exit with status 2. After Ctrl-C or SIGTERM the command cleans up and exits with
    status 130 or 143; a second Ctrl-C ends it at once.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be valid text
    plain_warnings()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, terminate)
    try:
        status = command()
        sys.stdout.flush()
    except UserError as error:
        fail(error)
    except BrokenPipeError:  # the reader of the output has ended (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = PIPE_CLOSED
    except OSError as error:
        if error.errno in NO_PATH:
            fail(f"path {shortened(str(error.filename))} cannot be used ({error.strerror})")
        if error.errno not in UNWRITABLE:
            raise
        file = error.filename or "a file that is written"
        fail(f"{file}: {error.strerror}; what is finished is intact")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(f"out of memory ({first_line(error)}); what is finished is intact")
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        print(
            "stopped: finished epochs are kept, and the same command continues from there",
            file=sys.stderr,
        )
    sys.exit(status or 0)


def plain_warnings() -> None:
    """Make each warning of this process one line, without a place in the code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    raise KeyboardInterrupt


def terminate(*_: object) -> NoReturn:
    """Handle SIGTERM: end as a process that was stopped, after the clean-up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the clean-up
    sys.exit(128 + signal.SIGTERM)


def fail(message: object) -> NoReturn:
    """Print one line and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)
