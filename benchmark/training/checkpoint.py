"""Checkpoints: the state of a run in a file, written beside training from a copy."""

from __future__ import annotations

import contextlib
import io
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from benchmark.config import RunConfig
from benchmark.data import check_data
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.models import rebuilt
from benchmark.training.state import State, prepared
from benchmark.training.step import make_optimizer

FORMAT = 4
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors of a full or a failing GPU; they do not mean that the file is bad."""
UNUSABLE = (
    zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, KeyError, EOFError, ValueError,
)  # fmt: skip
"""Errors that reading a file raises if it is not a checkpoint of the run."""


@dataclass
class _Copy:
    """A copy of a state, and where it is to be written."""

    content: dict
    path: Path
    previous: Path | None
    then: Callable[[], None]
    arrived: torch.cuda.Event | None
    """When the copies from the GPU are complete (None on a CPU)."""

    def write(self) -> _Copy:
        """Write the copy and return it. The main thread must free its pinned memory: no other
        thread may do so while a graph is captured."""
        if self.arrived:
            self.arrived.synchronize()
        buffer = io.BytesIO()
        torch.save(self.content, buffer)
        write_atomically(self.path, buffer.getvalue(), self.previous)
        self.then()
        return self


class Checkpoints:
    """Writes the states of a run in a thread, at least every `seconds`, as a context.

    `keep` copies a state after each epoch. A copy is written when it is due; if an exception ends
    the context (Ctrl-C, SIGTERM), the last copy is written too. With seconds = 0 each copy is
    written before `keep` returns. data: the digest of the data set.
    """

    def __init__(self, config: RunConfig, data: str, seconds: float) -> None:
        self._config, self._data, self._seconds = config, data, seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[_Copy] | None = None
        self._last: _Copy | None = None
        self._written = time.monotonic()

    def keep(
        self,
        state: State,
        path: Path,
        *,
        previous: Path | None = None,
        due: bool = False,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy a state for `path`, atomically written now if it is due or time has passed.

        previous: where the file that it replaces is kept. then: called when it is written. Raises
        the error of an earlier write.
        """
        content = _content(state, self._config, self._data)
        self._last = _Copy(content, path, previous, then, _event(state))
        if due or time.monotonic() - self._written >= self._seconds:
            self._write(self._last)

    def _write(self, copy: _Copy) -> None:
        self.wait()
        self._last, self._written = None, time.monotonic()
        self._writing = self._pool.submit(copy.write)
        if self._seconds == 0:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises the error of the last write."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._pool:
            if kind and self._last:
                self._write(self._last)
            self.wait()


def _event(state: State) -> torch.cuda.Event | None:
    device = next(state.model.parameters()).device
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _copied(value: object) -> object:
    """A copy of nested dictionaries, with tensors on the CPU; those of a GPU are on the way."""
    if isinstance(value, torch.Tensor):
        pinned = value.device.type == "cuda"
        copy = torch.empty_like(value, device="cpu", pin_memory=pinned)
        return copy.copy_(value, non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _content(state: State, config: RunConfig, data: str) -> dict:
    """What a checkpoint holds, as a copy that training does not change."""
    model = state.model
    content = {
        "format": FORMAT,
        "run_id": config.run_id,
        "threads": torch.get_num_threads(),
        "data": data,
        "num_classes": model.num_classes,
        "plan": model.plan,
        "written": model.written,
        "original": model.original,
        "masks": model.masks(),
        "model": model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "origin": state.origin,
        "seconds": state.seconds,
        "history": state.history,
        "cuts": state.cuts,
        "eager": state.eager,
        "accumulated": state.accumulated,
    }
    return _copied(content)


def load(path: Path, config: RunConfig, device: torch.device, data: str) -> State | None:
    """Read a checkpoint of the run that `config` describes, trained on the data set with the digest
    `data`.

    A file that is corrupt or belongs to another run is renamed, with a warning, and None is
    returned; None also stands for a file that is missing. Raises `UserError` for a checkpoint of a
    newer version, of other data, or of another number of CPU threads.
    """
    try:
        content = _read(path)
        if content["format"] > FORMAT:
            raise UserError(
                f"checkpoint {path} has format {content['format']}, this version reads "
                f"{FORMAT}: update flowprune, or remove the file to begin the run anew"
            )
        state = _restored(content, config, device)
        check_data(f"checkpoint {path}", config.dataset, content["data"], data)
        threads, now = content["threads"], torch.get_num_threads()
        if device.type == "cpu" and threads != now:
            raise UserError(
                f"threads must be {threads}, got {now}: checkpoint {path} was computed with "
                f"{threads}, and another number changes the last bits (or use another folder of "
                "runs)"
            )
        return state
    except (UserError, *DEVICE_ERRORS):
        raise
    except FileNotFoundError:  # the process that trains a dense phase has just removed it
        return None
    except UNUSABLE as error:
        aside = path.with_name(f"{path.name}.unusable")
        with contextlib.suppress(FileNotFoundError):  # another process has renamed it
            path.replace(aside)
        warnings.warn(f"checkpoint {path} is set aside as {aside.name}: {error}", stacklevel=2)
        return None


def _read(path: Path) -> dict:
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch does not check the checksums
        if broken := archive.testzip():
            raise ValueError(f"its part {broken} is corrupt")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _restored(content: dict, config: RunConfig, device: torch.device) -> State:
    if content["run_id"] != config.run_id:
        raise ValueError(f"it belongs to run {content['run_id']}")
    if content["format"] < FORMAT:
        raise ValueError(f"it has format {content['format']}, this version reads {FORMAT}")
    model = prepared(rebuilt(config.arch, content, config.width), device)
    model.load_state_dict(content["model"])
    optimizer = make_optimizer(model, config)
    optimizer.load_state_dict(content["optimizer"])
    return State(
        model,
        optimizer,
        content["origin"],
        content["seconds"],
        content["history"],
        content["cuts"],
        eager=content["eager"],
        accumulated=_on(device, content["accumulated"]),
    )


def _on(
    device: torch.device, tensors: dict[str, torch.Tensor] | None
) -> dict[str, torch.Tensor] | None:
    return tensors and {name: tensor.to(device) for name, tensor in tensors.items()}
