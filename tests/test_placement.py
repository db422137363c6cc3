"""How workers are spread over the devices of a machine."""

import os

import pytest
import torch

from benchmark.errors import UserError
from benchmark.options import Options
from sweeps.placement import placement


def devices(options, workers=0, per_gpu=1):
    return [place.device for place in placement(options, workers, per_gpu)]


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as torch sees them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_without_a_gpu_there_is_a_worker_per_core():
    places = placement(Options(device="cpu"), 0, 1)
    assert [place.device for place in places] == ["cpu"] * os.cpu_count()
    assert {place.threads for place in places} == {1}
    assert len(placement(Options(device="cpu"), 3, 1)) == 3


def test_workers_share_the_cores_unless_threads_are_given(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [place.threads for place in placement(Options(device="cpu"), 2, 1)] == [4, 4]
    assert [place.threads for place in placement(Options(device="cpu"), 16, 1)] == [1] * 16
    assert [place.threads for place in placement(Options(device="cpu", threads=3), 2, 1)] == [3, 3]


@pytest.mark.usefixtures("gpus")
def test_each_gpu_gets_its_workers_in_turn():
    assert devices(Options()) == ["cuda:0", "cuda:1"]
    assert devices(Options(), per_gpu=2) == ["cuda:0", "cuda:1"] * 2
    assert devices(Options(device="cuda"), workers=3, per_gpu=4) == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.usefixtures("gpus")
def test_a_device_that_was_asked_for_is_the_only_one():
    assert devices(Options(device="cuda:1"), per_gpu=3) == ["cuda:1"] * 3
    assert set(devices(Options(device="cpu"))) == {"cpu"}
    with pytest.raises(UserError, match="one of 2 CUDA devices, got 'cuda:5'"):
        devices(Options(device="cuda:5"))
