"""The speed command measures what it says and prints it; no test depends on a time."""

import json

import pytest
import torch

from benchmark.flow import gradients, hessian_gradients
from benchmark.measures import MEASURES
from benchmark.measures._scoring import score_all
from benchmark.perf import contests, naive
from benchmark.perf.speed import PARTS, Speed, execute, sized
from benchmark.training import probes
from tests.conftest import tiny_images, tiny_net
from tests.support.commands import command, refusal


def speed(*arguments):
    return command("benchmark.perf.speed", *arguments)


def test_every_part_is_timed_side_by_side(tmp_path):
    small = [
        "--archs",
        "vgg13",
        "--width",
        "0.0625",
        "--images",
        "20",
        "--steps",
        "1",
        "--repeats",
        "2",
    ]
    run = speed(
        *small, "--parts", "train", "evaluate", "score", "--json", str(tmp_path / "speed.json")
    )
    assert run.returncode == 0, run.stderr
    assert "vgg13" in run.stdout
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["what"]: row["compared with"] for row in rows} == {
        "train, 0% pruned": "naive",
        "train, 75% pruned": "dense",
        "evaluate": "naive",
        "score, g": "naive",
        "score, Hg": "naive",
        "score, all": "Hg",
    }
    for row in rows:
        assert row["ours"] > 0
        assert row["theirs"] > 0
        assert len(row["times as fast"]) == 2


@pytest.mark.slow
def test_a_probe_is_compared_with_the_scores_of_all_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "DRAWS", 1)
    monkeypatch.setattr(probes, "PROBE_SHARES", (0.1, 0.4))
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 3)
    file, calls = tmp_path / "speed.json", []

    def counted(model, measures, images, labels, **given):
        calls.append(({measure.name for measure in measures}, len(images)))
        return score_all(model, measures, images, labels, **given)

    for module in (contests, probes):
        monkeypatch.setattr(module, "score_all", counted)
    small = Speed(
        archs=("vgg13",),
        width=0.0625,
        parts=("probe",),
        images=10,
        repeats=1,
        device="cpu",
        json=file,
    )
    execute(small)
    (row,) = json.loads(file.read_text())["probe"]
    assert len(row["times scoring"]) == 1
    assert row["seconds"] > row["scoring seconds"] > 0
    every = set(MEASURES) - {"oracle", "none", "random", "grad_accumulation"}
    assert calls == [(every, 10)] * 4
    assert "probe" not in PARTS  # at full width it takes minutes


def test_each_measure_is_timed_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 3)
    file = tmp_path / "speed.json"
    sizes = {"width": 0.0625, "images": 8, "repeats": 2, "device": "cpu"}
    execute(Speed(archs=("vgg13",), parts=("measures",), json=file, **sizes))
    rows = json.loads(file.read_text())["measures"]
    assert [row["measure"] for row in rows] == [m for m in MEASURES if m not in ("oracle", "none")]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in rows)
    assert "hrank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("per", "unit", "ours", "theirs"), [(200, "images/s", 100.0, 25.0), (5, "s", 10.0, 40.0)]
)
def test_a_row_has_medians_and_the_ratios_of_neighbours(per, unit, ours, theirs):
    made = contests.row("vgg13", "train", [1.0, 2.0, 4.0], "naive", [8.0, 2.0, 8.0], per, unit)
    assert (made["ours"], made["theirs"], made["unit"]) == (ours, theirs, unit)
    assert made["times as fast"] == [8.0, 1.0, 2.0]


def test_contestants_are_called_in_turn_and_the_first_call_does_not_count(monkeypatch):
    calls, clock = [], iter(range(100))
    monkeypatch.setattr(contests.time, "perf_counter", lambda: next(clock) ** 2)

    def contestant(name):
        return lambda: calls.append(name)

    times = contests.alternated((contestant("ours"), contestant("other")), 2)
    assert calls == ["ours", "other"] * 3
    assert times == [[5, 13], [9, 17]]  # squares, of which a warm-up takes one


@pytest.mark.slow
@pytest.mark.long
def test_memory_is_that_of_a_process_of_its_own(tmp_path):
    small = ("--archs", "vgg13", "--width", "0.0625")
    run = speed(*small, "--parts", "memory", "--json", str(tmp_path / "speed.json"))
    assert run.returncode == 0, run.stderr
    memory = json.loads((tmp_path / "speed.json").read_text())["peak memory (bytes)"]
    assert [row["need"] for row in memory] == ["none", "g", "Hg", "all"]
    assert all(1e8 < row["bytes"] < 8e9 for row in memory)


def test_naive_loops_compute_the_same():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(12)
    plain = naive.plain(net)
    assert not any(
        type(module).__module__.startswith("benchmark.models._layers")
        for module in plain.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d)
    )
    g = gradients(net, images, labels, (5.0,)).mean
    for ours, theirs in zip(
        g[5.0].values(), naive.gradient(plain, images, labels, 5.0), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    naive.hessian_gradient(plain, images, labels, 5.0)
    hg = hessian_gradients(net, images, labels, g)[5.0]
    for ours, theirs in zip(hg.values(), (p.grad for p in plain.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--archs", "vgg99"), "archs"),
        (("--parts", "flight"), "parts"),
        (("--ratios", "1.5"), "ratios"),
        (("--precision", "int8"), "precision"),
        (("--repeats", "0"), "repeats"),
    ],
)
def test_bad_input_is_one_line(arguments, word):
    assert refusal(speed(*arguments)).startswith(f"{word} must be")


@pytest.mark.parametrize(
    ("name", "flag"), [("speed", "repeats"), ("overhead", "repeats"), ("equivalence", "seeds")]
)
def test_the_old_name_of_a_command_forwards_to_the_new_one(name, flag):
    run = command(f"benchmark.{name}", f"--{flag}", "0")
    assert run.returncode == 2
    note, error = run.stderr.splitlines()
    assert note == f"note: this command is now `python -m benchmark.perf.{name}`"
    assert error.startswith(f"error: {flag} must be at least")


def test_sizes_suit_the_device_unless_they_are_given():
    assert [(s.steps, s.images) for s in (sized(Speed(), "cpu"), sized(Speed(), "cuda"))] == [
        (4, 512),
        (100, 10_000),
    ]
    assert sized(Speed(steps=7), "cuda").steps == 7
