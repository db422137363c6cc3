"""How a process is set up for a run, with a stand-in for CUDA."""

import contextlib
import os
from pathlib import Path

import pytest
import torch

from benchmark.models import BatchNorm2d
from benchmark.options import Options


@pytest.fixture
def used(monkeypatch):
    """The CUDA devices that were made the current one."""
    used = []

    @contextlib.contextmanager
    def device(chosen):
        used.append(chosen)
        yield
        used.append(None)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    return used


def test_a_run_makes_its_device_the_current_one_with_kernels_that_repeat(used, monkeypatch):
    """Streams and graphs belong to the current device: on another one a graph captures nothing."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    with Options(device="cuda:1", wandb="disabled").applied():
        assert used == [torch.device("cuda:1")]
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert used[1:] == [None]
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_a_worker_is_set_up_for_its_device(used, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    Options(device="cuda:1", wandb="disabled").prepare()
    assert used == [torch.device("cuda:1")]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    Options(device="cpu", wandb="disabled").prepare()
    assert len(used) == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_masked_batch_norm_keeps_the_type_of_its_input(training):
    norm = BatchNorm2d(4).train(training)
    norm.mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    y = norm(torch.randn(8, 4, 6, 6).to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert not y[:, 1].any()


def test_folders_may_be_texts():
    options = Options(runs="mine", data="there", wandb="disabled")
    assert options == Options(runs=Path("mine"), data=Path("there"), wandb="disabled")
    assert options.runs / "a" == Path("mine/a")
