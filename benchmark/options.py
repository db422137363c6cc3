"""How and where runs are executed: none of it is part of a run's identity."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError, require, require_one_of
from benchmark.tracking.tracker import MODES, default_mode

if TYPE_CHECKING:
    import torch

MOST_THREADS = 1024
MOST_SECONDS = 86400


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of the command that do not change a result."""

    runs: Path = Path("runs")
    """Folder of the run records."""
    data: Path = Path("data")
    """Folder of the data sets."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda, cuda:1, ..., or mps (Apple's GPUs)."""
    threads: int = 1
    """CPU threads of each run. Another number changes the last bits of the results; the record has
    it."""
    wandb: str = field(default_factory=default_mode)
    """Mirror to Weights & Biases: offline, online or disabled (unless told: online under `wandb
    agent`)."""
    wandb_full: bool = False
    """Also send W&B the suite's git commit and the machine's load (never host name, arguments or
    paths)."""
    wandb_model: bool = False
    """Also send W&B the final net, as an artifact (with `keep_model`)."""
    wandb_scores: bool = False
    """Also send W&B the scores of each cut, as an artifact."""
    flow_every: int = 1
    """Measure the gradient flow every so many epochs."""
    score_all: bool = False
    """Also record the scores of every other measure at each cut."""
    keep_model: bool = False
    """Also keep the final net in the record (model.pt)."""
    checkpoint_seconds: float = 30.0
    """A run that is killed loses at most this many seconds of training (0: it loses no finished
    epoch)."""

    def __post_init__(self) -> None:
        for name in ("runs", "data"):  # a text will do
            object.__setattr__(self, name, Path(getattr(self, name)))
        require_one_of("wandb", self.wandb, MODES)
        if self.wandb_model and not self.keep_model:
            raise UserError("wandb_model needs keep_model, which leaves the net that is sent")
        require(self.flow_every >= 1, "flow_every", self.flow_every, "at least 1")
        allowed = f"from 1 to {MOST_THREADS}"
        require(1 <= self.threads <= MOST_THREADS, "threads", self.threads, allowed)
        seconds = self.checkpoint_seconds
        require(0 <= seconds < MOST_SECONDS, "checkpoint_seconds", seconds, "from 0 to a day")

    def torch_device(self) -> torch.device:
        """The device to train on. Raises `UserError` for one that does not exist."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        valid = re.fullmatch(r"cpu|cuda(:(0|[1-9]\d?))?|mps", self.device)
        require(bool(valid), "device", self.device, "auto, cpu, cuda[:N] or mps")
        device, there = torch.device(self.device), torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= there:
            raise UserError(f"device must be one of {there} CUDA devices, got {self.device!r}")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise UserError(
                "device must be auto, cpu or cuda[:N], got 'mps': torch has no MPS here"
            )
        return device

    def device_name(self) -> str:
        """The device, for the record."""
        import torch

        device = self.torch_device()
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def prepare(self) -> None:
        """Set up this process: the number of threads, and how memory is allocated."""
        import torch

        if sys.platform == "linux":
            _keep_memory()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # equal bits on any stream
        torch.set_num_threads(self.threads)
        if self.device != "cpu" and (device := self.torch_device()).index is not None:
            torch.cuda.set_device(device)  # streams and graphs belong to the current one

    @contextmanager
    def applied(self) -> Iterator[None]:
        """For a block: torch's number of threads, the device as CUDA's current one, and kernels of
        cuDNN that give the same bits each time."""
        import torch

        device, cudnn = self.torch_device(), torch.backends.cudnn
        before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
        torch.set_num_threads(self.threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                yield
        finally:
            torch.set_num_threads(before[0])
            cudnn.deterministic, cudnn.benchmark = before[1:]


def _keep_memory() -> None:
    """Make glibc keep large blocks: by default it returns each one to the kernel, and the page
    faults of the next one then cost more than the arithmetic (see docs/performance.md)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
