"""The optimizer, one step of training, and on a GPU its replay: a CUDA graph launches all kernels
of a step at once.

A replayed step runs the kernels of the eager one on the same numbers. Source: PyTorch's notes on
CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch.nn.functional import cross_entropy

from benchmark.config import RunConfig
from benchmark.data._batches import Epoch, batches
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
        self.size = config.batch_size
        self.sums = torch.zeros(2, device=device, dtype=wide(device))
        """Of the losses and of the correct predictions, over images. The sums are on the device,
        because reading them in each step would wait for it."""
        self.loss_sum, self.correct = self.sums

    def taken(self, epoch: Epoch) -> Iterator[int]:
        """Take the steps of an epoch, one after another; yields the number of images of each."""
        for x, y in batches(epoch, self.size):
            self(x, y)
            yield len(y)

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

    The batch is put together inside the graph: the order and the crops of an epoch lie at the same
    place each time, a counter on the device says where the next batch begins, and the graph
    advances it. So a replay has no arguments, and the processor only launches it. The rest of an
    epoch, which is smaller than a batch, is trained on eagerly. If CUDA refuses to capture a step,
    all batches are trained on eagerly; a warning and the record say so. A GPU that is full raises.
    """

    lr: float | None = None
    eager = EAGER
    replay: Callable[[], None] | None = None
    epoch: Epoch | None = None

    def taken(self, epoch: Epoch) -> Iterator[int]:
        """As `Step.taken`."""
        self._place(epoch)
        for _ in range(epoch.count // self.size):
            self._take()
            yield self.size
        if rest := epoch.count % self.size:
            self(*self.epoch.batch(slice(epoch.count - rest, epoch.count)))
            yield rest

    def _place(self, epoch: Epoch) -> None:
        """Put the order and the crops of an epoch where the graph finds them."""
        if self.epoch is None:
            device, self.epoch = self.sums.device, epoch
            self.counter = torch.zeros((), dtype=torch.int64, device=device)
            self.offsets = torch.arange(self.size, device=device)
            return
        self.counter.zero_()
        for ours, theirs in zip(self.epoch.drawn, epoch.drawn, strict=True):
            ours.copy_(theirs)

    def _take(self) -> None:
        lr = self.optimizer.param_groups[0]["lr"]
        if lr != self.lr:
            self.lr, self.replay, self.eager = lr, None, EAGER
        if self.eager:
            self.eager -= 1
            on_the_side(self._next, self.sums.device)
            return
        if self.replay is None:
            self.replay = self._captured()
        self.replay()

    def _next(self) -> None:
        """The step of the next batch, without arguments."""
        self(*self.epoch.batch(self.counter + self.offsets))
        self.counter += self.size

    def _captured(self) -> Callable[[], None]:
        try:
            return captured(self._next, side_stream(self.sums.device))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.refused = one_line(error)
            what = f"a training step of {self.config.arch}"
            warnings.warn(f"CUDA cannot capture {what}: {self.refused}", stacklevel=4)
            return self._next


def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for warming up and capturing: that of the run if it has one of its own, else one
    of the device. Memory and workspaces are kept per stream."""
    here = torch.cuda.current_stream(device)
    return _stream(device) if here == torch.cuda.default_stream(device) else here


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def on_the_side(step: Callable[[], None], device: torch.device) -> None:
    """Run a step on the stream on which it will be captured, so that both find the same memory."""
    stream, here = side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        step()
    here.wait_stream(stream)


def captured(step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """Capture a step without computing anything; returns the function that runs its kernels. Other
    threads may use CUDA meanwhile: a checkpoint is being written.

    Raises `RuntimeError` if CUDA cannot capture it, or if nothing was captured (torch only warns
    then, and a replay would train nothing).
    """
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*CUDA Graph is empty", category=UserWarning)
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except UserWarning as empty:
            raise AssertionError(
                "the step was captured on another device than it runs on"
            ) from empty
    return graph.replay


def step_kind(device: torch.device) -> type[Step]:
    """The class of the steps on a device."""
    return ReplayedStep if device.type == "cuda" else Step
