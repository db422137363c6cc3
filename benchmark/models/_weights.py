"""Weights in files: state dicts of this suite, of torchvision and of the authors' code."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import torch
from torch import nn

from benchmark.errors import UserError, is_out_of_memory, one_line
from benchmark.files import DIGITS

FORMAT = 1
"""Of `model.pt`."""
MODEL_KEYS = {
    "format", "arch", "num_classes", "plan", "written", "original", "masks", "weights", "classes",
    "image_size",
}  # fmt: skip
"""What a `model.pt` has."""
COUNTER = ".num_batches_tracked"
"""Old state dicts lack these entries of batch norms, which nothing here depends on."""

Weights = dict[str, torch.Tensor]
"""A state dict."""


def read(path: Path, what: str) -> object:
    """The content of a file that `torch.save` wrote. what: the thing, for messages.

    Raises `UserError` for a file that is missing or broken, or has more in it than tensors and
    plain values.
    """
    try:
        content = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(content)):  # torch does not check the checksums
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if broken := archive.testzip():
                    raise UserError(f"{what} is broken: its part {broken} is corrupt")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{what} does not exist") from None
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for bytes that it did not write
        if is_out_of_memory(error):
            raise
        reason = one_line(error).partition(". ")[0]
        raise UserError(f"{what} cannot be read ({reason or type(error).__name__})") from None


def read_weights(path: Path, what: str) -> Weights:
    """The state dict in a file: of the authors ({"net": state dict}, names with or without
    `module.`), of a dense net's `model.pt`, or alone.

    Raises `UserError` as `read` does, for a file with anything else, and for a pruned net.
    """
    content = read(path, what)
    if is_model(content):
        dense = content["plan"] == content["original"]
        if not dense or not all(mask.all() for mask in content["masks"].values()):
            raise UserError(f"{what} is of a pruned net; a run starts from a dense one")
        content = content["weights"]
    elif isinstance(content, dict):
        content = content.get("net", content)
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(map(_is_plain, content.values())):
        raise UserError(f"{what} must be {{'net': state dict}}, a state dict or a model.pt")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def is_model(content: object) -> bool:
    """Whether this is the content of a `model.pt`."""
    return isinstance(content, dict) and content.keys() >= MODEL_KEYS


def _is_plain(value: object) -> bool:
    dense = torch.is_tensor(value) and value.layout == torch.strided
    return dense and not (value.is_quantized or value.is_complex())


def digest(weights: Weights) -> str:
    """A digest (12 hex digits) of the names, types, shapes and bytes of a state dict.

    It does not depend on the order of the names, or on the file around them: the same weights are
    the same run.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()[:DIGITS]


def fill(net: nn.Module, weights: Weights, what: str, arch: str, *, finite: bool = True) -> None:
    """Give a net the weights of a state dict. what: the thing that holds them, for messages.

    Raises `UserError` that names the entry which is missing, unknown, of another shape, or (if
    `finite`) not finite.
    """
    own = net.state_dict()
    needed = [name for name in own if not name.endswith(COUNTER)]
    if lacks := [name for name in needed if name not in weights]:
        raise UserError(f"{what} is not of {arch}: it lacks {lacks[0]}")
    if odd := [name for name in weights if name not in own]:
        raise UserError(f"{what} is not of {arch}, which has no {odd[0]}")
    for name, tensor in weights.items():
        got, due = list(tensor.shape), list(own[name].shape)
        if got != due and got[1:] == due[1:] and _is_linear(net, name):
            raise UserError(f"{what} is for {got[0]} classes ({name}), the data set has {due[0]}")
        if got != due:
            raise UserError(f"{what}: {name} must have shape {due} in this {arch}, got {got}")
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(f"{what}: {name} must hold fractions, got {tensor.dtype}")
        if finite and not tensor.isfinite().all():
            raise UserError(f"{what}: {name} must be finite, got NaN or infinity")
    net.load_state_dict(weights, strict=False)


def _is_linear(net: nn.Module, name: str) -> bool:
    return isinstance(net.get_submodule(name.rpartition(".")[0]), nn.Linear)
