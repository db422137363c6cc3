"""The time per image of dense and final nets."""

import copy
import dataclasses
import math
import time

import pytest
import torch

from analysis.runs import archive
from analysis.runs.folder import read_folder
from benchmark import run as run_module
from benchmark.record import LATENCY_KEYS, Record
from benchmark.run import run
from benchmark.training import latency
from benchmark.training.latency import latencies
from tests.benchmark.test_run import science
from tests.conftest import tiny_images, tiny_net, tiny_run


class Slow(torch.nn.Module):
    """A net that takes 2 ms and 1 ms per image more."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.original, self.seen = plan, {"a": 2}, []

    def forward(self, x):
        self.seen.append((len(x), self.training, torch.is_grad_enabled()))
        clock[0] += 0.002 + 0.001 * len(x)
        return x


clock = [0.0]


def test_it_is_the_median_time_per_image_in_milliseconds(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    dense = Slow({"a": 2})
    monkeypatch.setattr(latency, "prepared", lambda net, device: net)
    images, net = tiny_images(5)[0], Slow({"a": 1}).train()
    net.resized = lambda plan: dense if plan == {"a": 2} else None
    found = latencies(net, images)
    assert tuple(found) == LATENCY_KEYS
    assert found["latency/one/after"] == pytest.approx(3)
    assert found["latency/one/before"] == pytest.approx(3)
    assert found["latency/batch/after"] == pytest.approx(1 + 2 / latency.BATCH_CPU)
    assert set(net.seen) == {(1, False, False), (latency.BATCH_CPU, False, False)}
    assert len(dense.seen) == len(net.seen) >= 2 * (1 + latency.LEAST)
    assert net.training


def test_nothing_but_time_changes():
    net, images = tiny_net("resnet20").train(), tiny_images(5)[0]
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    found = latencies(net, images)
    assert found["latency/one/before"] == found["latency/one/after"]  # it is the dense net
    net.original = dict.fromkeys(net.original, 32)
    wide = latencies(net, images)
    assert wide["latency/batch/before"] > wide["latency/batch/after"]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training


def test_a_record_an_archive_and_frames_have_it(options, tmp_path):
    config = tiny_run(measure="magnitude", ratio=0.7)
    summary = run(config, options)
    assert all(math.isfinite(summary[key]) and summary[key] > 0 for key in LATENCY_KEYS)
    frames = read_folder(str(options.runs))
    row = frames.runs.iloc[0]
    assert {key: row[key] for key in LATENCY_KEYS} == {key: summary[key] for key in LATENCY_KEYS}
    archive.write(frames, tmp_path / "study")
    again = archive.read(tmp_path / "study").runs.iloc[0]
    assert {key: again[key] for key in LATENCY_KEYS} == {key: summary[key] for key in LATENCY_KEYS}


def test_the_bits_of_a_run_do_not_depend_on_it(options, tmp_path, monkeypatch):
    config = tiny_run(measure="magnitude")
    run(config, options)
    there = dataclasses.replace(options, runs=tmp_path / "there")
    monkeypatch.setattr(run_module, "latencies", lambda *_: dict.fromkeys(LATENCY_KEYS, 1.0))
    run(config, there)
    assert science(config, options) == science(config, there)
    assert Record(there.runs / config.run_id).summary()["latency/one/after"] == 1.0
