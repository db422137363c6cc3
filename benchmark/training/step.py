"""One step of training, and on a GPU its replay: a CUDA graph launches all kernels of a step at
once.

A replayed step runs the kernels of the eager one on the same numbers. Source: PyTorch's notes on
CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from benchmark.config import RunConfig

EAGER = 3
"""Steps that allocate what a step needs, before one is captured."""


class Step:
    """Forward pass, loss, backward pass and update of one batch, in place."""

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig
    ) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        device = next(model.parameters()).device
        self.loss_sum, self.correct = torch.zeros(2, device=device, dtype=torch.float64)
        """Over the images of all steps, on the device: reading them at each step would wait for
        it."""

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Train on images [B, 3, H, W] and labels [B]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = self.model(x)
        logits = logits.float()
        loss = cross_entropy(logits / self.config.temperature, y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(y)
        self.correct += (logits.detach().argmax(1) == y).sum()


class ReplayedStep(Step):
    """The same for whole batches on a GPU: captured after a few eager steps, and anew when the
    learning rate changes.

    Batches of another size are trained on eagerly, as is everything (with a warning) where CUDA
    cannot capture a step.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig
    ) -> None:
        super().__init__(model, optimizer, config)
        self.lr: float | None = None
        self.eager = EAGER
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Train on images [B, 3, H, W] and labels [B]."""
        lr = self.optimizer.param_groups[0]["lr"]
        if len(y) != self.config.batch_size:
            super().__call__(x, y)
            return
        if lr != self.lr:
            self.lr, self.replay, self.eager = lr, None, EAGER
        if self.eager:
            self.eager -= 1
            on_the_side(lambda: Step.__call__(self, x, y))
            return
        if self.replay is None:
            self.x, self.y = torch.empty_like(x), torch.empty_like(y)
            self.replay = self._captured()
        self.x.copy_(x)
        self.y.copy_(y)
        self.replay()

    def _captured(self) -> Callable[[], None]:
        def step() -> None:
            Step.__call__(self, self.x, self.y)

        try:
            return captured(step)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            warnings.warn(
                f"CUDA cannot capture a training step of {self.config.arch}: {reason}", stacklevel=4
            )
            return step


def on_the_side(step: Callable[[], None]) -> None:
    """Run a step on another stream, as a capture does, so that both find the same memory."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """What launches the kernels of a step; nothing is computed yet. Raises `RuntimeError` if it
    cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def kind(device: torch.device) -> type[Step]:
    """How steps are taken on a device."""
    return ReplayedStep if device.type == "cuda" else Step
