"""What MPS lacks is not used there. No test runs on MPS: a stand-in forbids float64."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import devices, flow
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.flow import evaluate, measure_flow
from benchmark.measures import MEASURES, score
from benchmark.options import Options
from benchmark.pruning import select
from benchmark.training import step as steps
from benchmark.training.step import Step, make_optimizer
from sweeps import placement
from tests.conftest import tiny_images, tiny_net

ON_CPU = {"activation", "activation_gradient", "gate_square", "hessian_diagonal", "live"}
"""Needs of measures that are computed on the CPU then."""
SCORED = [
    name for name, measure in MEASURES.items()
    if name not in ("none", "synflow") and not ON_CPU & {*measure.needs}
]  # fmt: skip


class NoFloat64(TorchDispatchMode):
    """Fails where an operation returns float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, (tuple, list)) else (found,):
            assert not (torch.is_tensor(value) and value.dtype == torch.float64), function
        return found


@pytest.fixture
def narrow(monkeypatch):
    """Sums as on MPS."""
    kind = devices.wide(torch.device("mps"))
    for module in (flow, steps):
        monkeypatch.setattr(module, "wide", lambda device: kind)


def test_sums_are_float64_where_the_device_has_it():
    assert devices.wide(torch.device("mps")) == torch.float32
    assert devices.wide(torch.device("cpu")) == devices.wide(torch.device("cuda")) == torch.float64


def test_a_step_a_test_and_the_flow_need_no_float64(narrow, monkeypatch):
    net, (images, labels) = tiny_net("resnet20"), tiny_images(12)
    with NoFloat64():
        found = measure_flow(net, images, labels, 5.0).numbers
        loss, _ = evaluate(net, images, labels, 5.0)
    monkeypatch.undo()
    exact = measure_flow(net, images, labels, 5.0).numbers
    assert found == pytest.approx(exact, rel=1e-4)
    assert loss == pytest.approx(exact["loss"], rel=1e-5)


def test_a_step_needs_no_float64(narrow):
    net, (_, labels) = tiny_net("resnet20"), tiny_images(4)
    with NoFloat64():
        step = Step(net, make_optimizer(net, RunConfig()), RunConfig())
        step(torch.randn(4, 3, 32, 32), labels)
    assert step.sums.tolist()[0] > 0


@pytest.mark.parametrize("measure", SCORED)
def test_scores_and_cuts_need_no_float64(narrow, measure):
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    draw = torch.Generator().manual_seed(0)
    initial = {name: net.get_submodule(name).weight.detach().clone() + 1 for name in net.convs}
    with NoFloat64():
        scores = score(net, measure, images, labels, generator=draw, initial=initial, bn="fresh")
        select(net, scores, 0.5, budget="macs")


def test_scores_of_synflow_without_float64_on_the_device(monkeypatch):
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 20)
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    exact = score(net, "synflow", images, labels)
    monkeypatch.setattr(devices, "wide", lambda device: torch.float32)
    found = score(net, "synflow", images, labels)
    assert all(torch.equal(found[name], layer) for name, layer in exact.items())


def test_a_processor_has_no_number():
    with pytest.raises(UserError, match=r"device must be auto, cpu, cuda\[:N\] or mps, got .cpu:0"):
        Options(device="cpu:0", wandb="disabled").torch_device()


def test_mps_is_taken_where_torch_has_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="got 'mps': torch has no MPS here"):
        Options(device="mps", wandb="disabled").torch_device()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    there = Options(device="mps", wandb="disabled")
    assert there.torch_device() == torch.device("mps")
    assert there.device_name() == "mps"
    assert [place.device for place in placement.placement(there, 0, 0)] == ["mps"]
    assert len(placement.placement(there, 3, 0)) == 3


def test_a_device_is_waited_for(monkeypatch):
    calls = []
    stream = SimpleNamespace(synchronize=lambda: calls.append("the stream"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
    for name in ("cpu", "cuda:1", "mps"):
        devices.wait(torch.device(name))
    assert calls == ["the stream", "mps"]
