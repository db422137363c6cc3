"""Asking a W&B server: the connection, the runs of a project, and its errors in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from benchmark.errors import UserError

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public import Run

PAGE = 100
"""Runs per query."""
CONNECT_SECONDS = 15
"""Longest time to reach the server at all."""
PATIENCE_SECONDS = 90
"""Longest time without an answer. Until then wandb's client tries again, with growing pauses, what
failed with a lost connection or a status of 429 or 5xx."""
TEARDOWN_SECONDS = 5
"""Longest wait for the client's service process to end."""
THREADS = 8
"""Runs that are read or written at the same time."""


def server() -> str:
    """The address of the W&B server, without asking it."""
    from wandb.sdk import wandb_setup  # here, because importing it takes a second

    return os.environ.get("WANDB_BASE_URL") or wandb_setup.singleton().settings.base_url


def connect() -> wandb.Api:
    """The server's API. Raises what wandb raises, soon, if the server or the key is not good."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    wandb.Api(timeout=CONNECT_SECONDS)
    return wandb.Api(timeout=PATIENCE_SECONDS)


def listed(api: wandb.Api, place: str, conditions: Mapping = {}) -> list[Run]:
    """The runs of `place`, ENTITY/PROJECT, that meet a filter, with configuration and summary, in
    one query per page.

    Raises ValueError if there is no such project.
    """
    return list(api.runs(place, filters=dict(conditions), lazy=False, per_page=PAGE))


def stop_asking() -> None:
    """End the client's service process, which would try for hours what the server does not answer.

    Now and then the process does not end while a request is on its way; then it is left to end with
    ours.
    """
    import wandb

    ending = Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(TEARDOWN_SECONDS)


@contextmanager
def asking(hint: str = "") -> Iterator[None]:
    """Turn what wandb raises, which are errors of several unrelated classes, into a `UserError` of
    one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"W&B server {server()}: {told(error)}{hint}") from error


def told(error: BaseException) -> str:
    """The first line of an error, or its kind if it says nothing."""
    line = str(error).partition("\n")[0].removesuffix(".")
    return line if line not in ("", "<no message>") else type(error).__name__
