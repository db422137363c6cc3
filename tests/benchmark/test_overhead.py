"""The command that times tracking: what it compares with what."""

import json

import pytest

from benchmark.cli import parse
from benchmark.perf import overhead
from benchmark.perf.overhead import Overhead, execute, timed
from tests.conftest import tiny_run


def test_runs_are_compared_with_those_without_tracking_before_them(monkeypatch, tmp_path, capsys):
    asked = []

    def pretend(function, modes, repeats, options):
        assert function is timed
        asked.append((modes, repeats))
        if len(modes) == 1:
            return {modes[0]: [1.0 if modes == ("disabled",) else 3.5]}
        return {"disabled": [9.0, 10.0, 20.0, 30.0], "offline": [99.0, 10.3, 20.1, 32.0]}

    monkeypatch.setattr(overhead, "in_new_process", pretend)
    execute(Overhead(seconds=20.0, repeats=3, device="cpu", json=tmp_path / "numbers.json"))
    assert asked == [(("disabled",), 1), (("offline",), 1), (("disabled", "offline"), 4)]
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("+0.30 s", "+1.5%", "+2.50 s"))
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert written["later"]["offline"] == [10.3, 20.1, 32.0]


def test_runs_are_timed_with_their_tracking(options):
    seconds = timed(("disabled", "offline"), 2, options, tiny_run(epochs=1))
    assert {mode: len(of_mode) for mode, of_mode in seconds.items()} == {
        "disabled": 2,
        "offline": 2,
    }
    assert all(time > 0 for of_mode in seconds.values() for time in of_mode)
    assert not options.runs.exists()


@pytest.mark.parametrize("flags", [["--modes", "maybe"], ["--repeats", "0"], ["--seconds", "0"]])
def test_bad_input(flags):
    with pytest.raises(ValueError, match=flags[0].removeprefix("--")):
        execute(parse(Overhead, "overhead", "", flags))
