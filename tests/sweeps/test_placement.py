"""How workers are spread over the devices of a machine."""

import os

import pytest
import torch

from benchmark import flow
from benchmark.errors import UserError
from benchmark.options import Options
from benchmark.training import epoch as train
from sweeps import placement as placement_module
from sweeps.placement import placement, try_out
from tests.conftest import tiny_run


def devices(options, workers=0, per_gpu=1, configs=()):
    return [place.device for place in placement(options, workers, per_gpu, configs)]


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


def test_a_worker_has_one_thread_unless_more_are_asked_for(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [place.threads for place in placement(Options(device="cpu"), 2, 1)] == [1, 1]
    assert [place.threads for place in placement(Options(device="cpu"), 0, 1)] == [1] * 8
    assert [place.threads for place in placement(Options(device="cpu", threads=3), 0, 1)] == [3, 3]


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


@pytest.mark.usefixtures("gpus")
def test_as_many_runs_as_fit_share_a_gpu(monkeypatch):
    asked = []
    gib = 1 << 30
    monkeypatch.setattr(
        placement_module,
        "in_new_process",
        lambda function, configs, options: asked.append((configs, options)) or (2 * gib, free),
    )
    configs = [tiny_run(), tiny_run(arch="resnet20")]
    for room, cores, number in ((20, 64, 9), (20, 8, 4), (1, 64, 1), (20, 1, 1)):
        free = room * gib
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert devices(Options(), per_gpu=0, configs=configs) == ["cuda:0", "cuda:1"] * number
    assert {(options.device, *configs) for configs, options in asked} == {("cuda:0", *configs)}
    asked.clear()
    assert len(devices(Options(), workers=3, per_gpu=0)) == 3
    assert len(devices(Options(device="cpu"), per_gpu=0)) == 1
    assert not asked


def test_what_a_run_does_is_tried_out_on_any_device(monkeypatch):
    done = []
    for module, name in ((train, "train_epoch"), (flow, "measure_flow"), (flow, "evaluate")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, real=real, **k: done.append(name) or real(*a, **k)
        )
    try_out(tiny_run(batch_size=4), torch.device("cpu"))
    assert done == ["train_epoch", "measure_flow", "evaluate"]
