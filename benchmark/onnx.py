"""Nets as ONNX files, and what onnxruntime makes of them."""

from __future__ import annotations

import copy
import warnings

import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from benchmark.errors import UserError, one_line
from benchmark.models import Net
from benchmark.models._layers import BatchNorm2d, Conv2d

BATCHES = (1, 2, 5)
"""Numbers of images that a file is checked with."""


def exported(net: Net, size: tuple[int, int], opset: int) -> bytes:
    """A net in evaluation mode as ONNX for any number of images of this height and width.

    Raises `UserError` if the net cannot take such images, or torch cannot write it.
    """
    images = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad():
            net(images)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"image_size {size[0]}x{size[1]} does not suit {net.arch} ({one_line(error)})"
        ) from None
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own modules
            program = torch.onnx.export(
                plain(net),
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"torch cannot export {net.arch} ({one_line(error)})") from None
    return program.model_proto.SerializeToString()


def difference(net: Net, content: bytes, size: tuple[int, int]) -> tuple[float, float]:
    """The largest difference of a logit between onnxruntime and the net, and the net's largest
    logit, on random images."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    draw, differences, scale = torch.Generator().manual_seed(0), [], 0.0
    for count in BATCHES:
        images = torch.rand(count, 3, *size, generator=draw) * 2 - 1
        with torch.no_grad():
            expected = net(images)
        (logits,) = session.run(None, {"images": images.numpy()})
        differences.append(float((torch.from_numpy(logits) - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    return max(differences), scale


def plain(net: Net) -> nn.Module:
    """A copy of a net in evaluation mode that consists of torch's own modules, with the outputs of
    `net`: masks are folded into the weights, and channels are placed by an index."""
    copied = copy.deepcopy(net).eval()
    with torch.no_grad():
        copied(torch.zeros(1, 3, *net.image_size))  # a traced net sets its last masks now
    for name, module in list(copied.named_modules()):
        if not isinstance(module, Conv2d | BatchNorm2d):
            continue
        module.__class__ = nn.Conv2d if isinstance(module, Conv2d) else nn.BatchNorm2d
        if module.mask is not None:
            for parameter in module.parameters(recurse=False):
                parameter.data[module.mask == 0] = 0
        if module.places is not None:
            parent, _, last = name.rpartition(".")
            placed = nn.Sequential(module, _Placed(module.places, module.width))
            setattr(copied.get_submodule(parent), last, placed)
    return copied


class _Placed(nn.Module):
    """Puts the channels of images [N, C, H, W] at the channels `places` [C] of `width`, among
    zeros."""

    def __init__(self, places: torch.Tensor, width: int) -> None:
        super().__init__()
        source = torch.full((width,), len(places))
        source[places] = torch.arange(len(places))
        self.register_buffer("source", source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)
