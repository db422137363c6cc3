"""The command that times tracking: what it compares with what."""

import dataclasses
import json

import pytest

from benchmark import overhead
from benchmark.cli import parse
from benchmark.overhead import Cost, Overhead, execute, timed
from tests.conftest import tiny_run


def test_runs_are_compared_with_the_run_without_tracking_before_them(monkeypatch, tmp_path, capsys):
    walls, asked = iter([2.0, 10.0, 11.0, 20.0, 21.0, 30.0, 33.0]), []

    def pretend(job):
        config, options = job.args
        asked.append((options.wandb, config.epochs))
        return Cost(next(walls), 1.0)

    monkeypatch.setattr(overhead, "in_new_process", pretend)
    execute(Overhead(seconds=20.0, repeats=3, device="cpu", json=tmp_path / "numbers.json"))
    assert asked == [("disabled", 4), *[("disabled", 40), ("offline", 40)] * 3]
    assert "+10.0%" in capsys.readouterr().out
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert [cost["wall"] for cost in written["results"]["offline"]] == [11.0, 21.0, 33.0]


def test_a_run_is_timed_with_its_tracking(options):
    cost = timed(tiny_run(epochs=1), dataclasses.replace(options, wandb="offline"))
    assert cost.wall > 0
    assert not options.runs.exists()


@pytest.mark.parametrize("flags", [["--modes", "maybe"], ["--repeats", "0"], ["--seconds", "0"]])
def test_bad_input(flags):
    with pytest.raises(ValueError, match=flags[0].removeprefix("--")):
        execute(parse(Overhead, "overhead", "", flags))
