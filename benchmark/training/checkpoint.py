"""Checkpoints: the state of a run in a file."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from benchmark.config import RunConfig
from benchmark.data import check_data
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.models import build
from benchmark.training.state import State, prepared
from benchmark.training.step import make_optimizer

FORMAT = 2
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors of a full or a failing GPU; they do not mean that the file is bad."""


class _UnusableError(Exception):
    """The run cannot continue from this checkpoint."""


UNUSABLE = (
    _UnusableError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, KeyError, EOFError,
    ValueError,
)  # fmt: skip
"""Errors that reading a file raises if it is not a checkpoint of the run."""


def save(
    path: Path, state: State, config: RunConfig, data: str, *, previous: Path | None = None
) -> None:
    """Write a checkpoint, atomically; the one that it replaces is kept as `previous`.

    data: the digest of the data set.
    """
    model = state.model
    content = {
        "format": FORMAT,
        "run_id": config.run_id,
        "threads": torch.get_num_threads(),
        "data": data,
        "num_classes": model.num_classes,
        "plan": model.plan,
        "original": model.original,
        "masks": {name: mask.cpu() for name, mask in model.masks().items()},
        "model": model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "origin": state.origin,
        "seconds": state.seconds,
        "history": state.history,
        "cuts": state.cuts,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue(), previous)


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
                f"checkpoint {path} has format {content['format']}, this version reads up to "
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
            raise _UnusableError(f"its part {broken} is corrupt")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _restored(content: dict, config: RunConfig, device: torch.device) -> State:
    if content["run_id"] != config.run_id:
        raise _UnusableError(f"it belongs to run {content['run_id']}")
    model = prepared(build(config.arch, content["num_classes"], plan=content["plan"]), device)
    model.original = dict(content["original"])
    model.load_state_dict(content["model"])
    for name, mask in content["masks"].items():
        model.set_mask(name, mask.to(device))
    optimizer = make_optimizer(model, config)
    optimizer.load_state_dict(content["optimizer"])
    return State(
        model, optimizer, content["origin"], content["seconds"], content["history"], content["cuts"]
    )
