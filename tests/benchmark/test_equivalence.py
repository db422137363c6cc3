"""The command that compares a fast mode with float32."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from benchmark.perf.equivalence import compare
from tests.conftest import tiny_run
from tests.support.commands import command, refusal

MARGIN = 0.2


@pytest.mark.parametrize(
    ("shift", "word"), [(0.0, "equivalent"), (0.2, "undecided"), (-0.5, "different")]
)
def test_the_verdict_follows_the_difference(shift, word):
    noise = np.random.default_rng(0).normal(0, 0.05, size=10)
    noise -= noise.mean()
    plain = np.linspace(90, 93, 10)
    verdict = compare(plain + shift + noise, plain, MARGIN)
    assert verdict.word == word
    assert verdict.mean == pytest.approx(shift)
    each = [
        ttest_1samp(shift + noise, bound, alternative=side).pvalue
        for bound, side in ((-MARGIN, "greater"), (MARGIN, "less"))
    ]
    assert verdict.p == pytest.approx(max(each))


def test_few_and_scattered_seeds_decide_nothing():
    assert compare([91.0, 93.0], [92.0, 92.0], MARGIN).word == "undecided"


@pytest.mark.parametrize(("difference", "word"), [(0.0, "equivalent"), (0.25, "different")])
def test_equal_differences_have_no_spread(difference, word):
    assert compare([90 + difference, 92 + difference], [90.0, 92.0], MARGIN).word == word


def test_the_command_trains_both_and_prints_the_verdict(tmp_path):
    flags = [
        f"--{k}={v}"
        for k, v in tiny_run(epochs=1).to_dict().items()
        if k not in ("seed", "precision")
    ]
    quiet = [
        "--wandb",
        "disabled",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--runs",
        tmp_path / "runs",
    ]
    file = tmp_path / "numbers.json"
    result = command("benchmark.perf.equivalence", *flags, *quiet, "--seeds", "2", "--json", file)
    assert result.returncode == 0, result.stderr
    numbers = json.loads(file.read_text())
    assert f"{numbers['verdict']}: bf16 minus float32" in result.stdout
    assert {name: len(values) for name, values in numbers["accuracy"].items()} == {
        "float32": 2,
        "bf16": 2,
    }
    assert len(list(tmp_path.glob("runs/*/summary.json"))) == 4


@pytest.mark.parametrize("flags", [["--fast", "float32"], ["--seeds", "1"], ["--margin", "0"]])
def test_bad_input_is_one_line(flags):
    result = command("benchmark.perf.equivalence", *flags)
    assert refusal(result).startswith(f"{flags[0].removeprefix('--')} must be")
