"""The command that times tracking: what it compares with what."""

import dataclasses
import json

import pytest

from benchmark import overhead
from benchmark.cli import parse
from benchmark.overhead import Cost, Overhead, execute, timed
from tests.conftest import tiny_run


def test_runs_are_compared_with_those_without_tracking_before_them(monkeypatch, tmp_path, capsys):
    later, asked = iter([2.0, 10.0, 11.0, 20.0, 21.0, 30.0, 33.0]), []

    def pretend(job):
        first, second, options = job.args
        asked.append((options.wandb, first.epochs, second.epochs))
        return Cost(first=1.0 if options.wandb == "disabled" else 3.5, later=next(later))

    monkeypatch.setattr(overhead, "in_new_process", pretend)
    execute(Overhead(seconds=20.0, repeats=3, device="cpu", json=tmp_path / "numbers.json"))
    assert asked == [("disabled", 4, 4), *[("disabled", 4, 40), ("offline", 4, 40)] * 3]
    printed = capsys.readouterr().out
    assert "+10.0%" in printed
    assert "+2.50 s" in printed
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert [cost["later"] for cost in written["results"]["offline"]] == [11.0, 21.0, 33.0]


def test_runs_are_timed_with_their_tracking(options):
    cost = timed(tiny_run(epochs=1), tiny_run(epochs=2), dataclasses.replace(options, wandb="offline"))
    assert cost.first > 0
    assert cost.later > 0
    assert not options.runs.exists()


@pytest.mark.parametrize("flags", [["--modes", "maybe"], ["--repeats", "0"], ["--seconds", "0"]])
def test_bad_input(flags):
    with pytest.raises(ValueError, match=flags[0].removeprefix("--")):
        execute(parse(Overhead, "overhead", "", flags))
