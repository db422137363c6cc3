"""The optimizer, one step of training, and on a GPU its replay: a CUDA graph launches all kernels
of a step at once.

A replayed step runs the kernels of the eager one on the same numbers. Source: PyTorch's notes on
CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch.nn.functional import cross_entropy

from benchmark.config import RunConfig
from benchmark.devices import wide
from benchmark.errors import is_out_of_memory, one_line

EAGER = 3
"""Number of eager steps before one is captured; they allocate the memory that a step needs."""


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` without the wrappers around its methods.

    When they are first called they import torch's compiler, which takes longer than to import torch
    itself.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)


def make_optimizer(model: torch.nn.Module, config: RunConfig) -> SGD:
    """SGD with weight decay on all parameters, one fused kernel per step."""
    return SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


class Step:
    """Forward pass, loss, backward pass and update of one batch, in place."""

    refused = ""
    """Why CUDA refused to capture the step (empty: it did not)."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: RunConfig,
        accumulated: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        self.accumulated = accumulated or {}
        """{conv: sum of the norms of its filters' gradients}; each step adds its own."""
        device = next(model.parameters()).device
        self.sums = torch.zeros(2, device=device, dtype=wide(device))
        """Of the losses and of the correct predictions, over images. The sums are on the device,
        because reading them in each step would wait for it."""
        self.loss_sum, self.correct = self.sums

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Train on images [B, 3, H, W] and labels [B]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = self.model(x)
        logits = logits.float()
        loss = cross_entropy(logits / self.config.temperature, y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for name, total in self.accumulated.items():
            total += self.model.get_submodule(name).weight.grad.flatten(1).norm(dim=1)
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(y)
        self.correct += (logits.detach().argmax(1) == y).sum()


class ReplayedStep(Step):
    """A step on a GPU that is captured after a few eager steps, and again when the learning rate
    changes.

    Batches that are not of `batch_size` are trained on eagerly. If CUDA refuses to capture a step,
    all batches are, after a warning, and the record says so. A GPU that is full raises.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: RunConfig,
        accumulated: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(model, optimizer, config, accumulated)
        self.lr: float | None = None
        self.eager = EAGER
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Train on images [B, 3, H, W] and labels [B]."""
        lr, eager_step = self.optimizer.param_groups[0]["lr"], super().__call__
        if len(y) != self.config.batch_size:
            eager_step(x, y)
            return
        if lr != self.lr:
            self.lr, self.replay, self.eager = lr, None, EAGER
        if self.eager:
            self.eager -= 1
            on_the_side(lambda: eager_step(x, y), x.device)
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
            return captured(step, side_stream(self.x.device))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.refused = one_line(error)
            what = f"a training step of {self.config.arch}"
            warnings.warn(f"CUDA cannot capture {what}: {self.refused}", stacklevel=4)
            return step


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device for warming up and capturing: memory and workspaces are kept per
    stream."""
    return torch.cuda.Stream(device)


def on_the_side(step: Callable[[], None], device: torch.device) -> None:
    """Run a step on the stream on which it will be captured, so that both find the same memory."""
    stream, here = side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        step()
    here.wait_stream(stream)


def captured(step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """Capture a step without computing anything; returns the function that runs its kernels.

    Raises `RuntimeError` if CUDA cannot capture it, or if nothing was captured (torch only warns
    then, and a replay would train nothing).
    """
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*CUDA Graph is empty", category=UserWarning)
        try:
            with torch.cuda.graph(graph, stream=stream):
                step()
        except UserWarning as empty:
            raise AssertionError(
                "the step was captured on another device than it runs on"
            ) from empty
    return graph.replay


def step_kind(device: torch.device) -> type[Step]:
    """The class of the steps on a device."""
    return ReplayedStep if device.type == "cuda" else Step
