"""`flowprune export model.pt --onnx net.onnx`: writes the net of a run as ONNX, and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

from benchmark.cli import check_file, guarded, parse
from benchmark.errors import UserError, require
from benchmark.files import write_atomically

DIFFERS = 1
MOST_PIXELS = 4096
"""Largest height or width of images."""
NEEDS = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit."""
OPSETS = (18, 23)
"""The first and last opset that torch writes and onnxruntime reads."""


@dataclass(frozen=True)
class Export:
    """Write the net of a run as an ONNX file, and compare its logits with the net's in onnxruntime.
    Exit status 1 if they differ."""

    model: tyro.conf.Positional[Path]
    """The model.pt of a run with --keep-model."""
    onnx: Path
    """File to write. Its input `images` is float [N, 3, H, W], pixels (p / 255 - 0.5) / 0.5; its
    output `logits` is [N, classes]; N is free."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images (default: those of the run)."""
    opset: int = OPSETS[0]
    """Version of the ONNX operators."""

    def __post_init__(self) -> None:
        first, last = OPSETS
        require(first <= self.opset <= last, "opset", self.opset, f"from {first} to {last}")
        for side in self.image_size or ():
            require(1 <= side <= MOST_PIXELS, "image_size", side, f"from 1 to {MOST_PIXELS}")


def main(argv: Sequence[str] | None = None, prog: str = "python -m benchmark.export") -> None:
    """Execute the command line."""
    command = parse(Export, prog, Export.__doc__, argv)
    guarded(lambda: execute(command))


def execute(command: Export) -> int:
    """Write and check the file; the exit status. A file that differs is not written."""
    check_file("onnx", command.onnx)
    if lacks := [name for name in NEEDS if not find_spec(name)]:
        raise UserError(
            f"export needs {', '.join(lacks)}, which is not installed: "
            "pip install 'flowprune[onnx]'"
        )
    from benchmark.models import load  # here, because it imports torch
    from benchmark.onnx import difference, exported

    net = load(command.model)
    size = command.image_size or net.image_size
    content = exported(net, size, command.opset)
    largest, scale = difference(net, content, size)
    said = f"largest difference of a logit {largest:.2g}, largest logit {scale:.2g}"
    if not largest <= TOLERANCE * scale:
        print(f"{command.onnx} is not written: in onnxruntime the net differs ({said})")
        return DIFFERS
    write_atomically(command.onnx, content)
    print(f"{command.onnx}: {len(content):,} bytes, opset {command.opset}; in onnxruntime {said}")
    return 0


if __name__ == "__main__":
    main()
