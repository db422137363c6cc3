"""Numbers, grids and paths that are far too large or too deep: one line each, at once."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest
import yaml

from analysis.report.build import file_names
from analysis.runs.pull import Pull
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.options import Options
from sweeps.grid import load
from tests.support.commands import command, refusal
from tests.sweeps.test_sweeps import FLAGS

BOMB = "a0: &a0 [1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.fixture(autouse=True)
def _soon():
    start = time.process_time()
    yield
    assert time.process_time() - start < 5  # a bomb would take hours and all the memory


def refused(*arguments):
    return refusal(command(*arguments))


def grid(path, text=None, **parameters):
    path.write_text(text or yaml.safe_dump({"method": "grid", "parameters": parameters}))
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("method: grid\n" + BOMB, "has more than 100,000 values"),
        ("a: &a [*a]\nmethod: grid", "unknown key 'a'"),
    ],
    ids=["brackets", "bomb", "circle"],
)
def test_a_grid_file_that_explodes(tmp_path, text, said):
    assert said in refused("sweeps", "plan", grid(tmp_path / "g.yaml", text))


def test_a_grid_of_too_many_points(tmp_path):
    many = {"values": list(range(1, 400))}
    path = grid(
        tmp_path / "g.yaml", seed=many, epochs=many, rounds=many, batch_size=many, train_limit=many
    )
    assert "points of the grid must be at most 1,000,000, got " in refused("sweeps", "plan", path)


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_a_filter_that_is_nested_too_deeply(text):
    with pytest.raises(
        UserError, match=r"^filter '.{0,210}' (is nested too deeply|is not valid JSON)"
    ):
        Pull(filter=("{" + text if text[0] == "[" else text,)).conditions()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rounds": 10**9}, "rounds must be at most 100000, got 1000000000"),
        ({"epochs": 10**30, "rounds": 5}, "epochs must be at most 100000, got 1000"),
        ({"seed": 10**300}, "seed must be at most 9223372036854775807, got 1000"),
        ({"batch_size": 2**31}, "batch_size must be at most 2147483647, got 2147483648"),
    ],
)
def test_a_number_that_is_too_large(fields, said):
    with pytest.raises(UserError, match=f"^{said}") as caught:
        RunConfig(**fields)
    assert len(str(caught.value)) < 300


def test_flags_that_are_too_large(tmp_path):
    flags = [*FLAGS, "--runs", tmp_path]
    assert "seed must be at most" in refused("benchmark", "--seed", "9" * 300, *flags)
    assert refused("benchmark", "--threads", "9" * 30, "--runs", tmp_path).startswith(
        "threads must be from 1 to 1024"
    )
    with pytest.raises(UserError, match="threads must be from 1 to 1024, got 0"):
        Options(threads=0)
    path = grid(tmp_path / "g.yaml", seed={"value": 1})
    assert "workers must be from 0 to" in refused(
        "sweeps", "run", path, "--workers", "9" * 30, *flags
    )


def test_numbers_that_yaml_takes_for_texts_are_those_of_the_flags(tmp_path):
    text = (
        "method: grid\nparameters: {weight_decay: {values: [1e-4, 5e-4]}, "
        "epochs: {value: '20'}, lr: {value: 1e-1}}"
    )
    configs = load(grid(tmp_path / "g.yaml", text)).configs
    assert [config.weight_decay for config in configs] == [1e-4, 5e-4]
    assert configs[0] == RunConfig(epochs=20)
    with pytest.raises(UserError, match="weight_decay must be a number, got 'much'"):
        load(grid(tmp_path / "g.yaml", weight_decay={"value": "much"}))


def test_figures_of_a_long_path_have_short_names():
    path = "/".join(["x" * 40] * 6)
    names = file_names(
        [f"vgg13 on folder:{path}/{end}" for end in ("one", "two")]
        + [f"vgg13 on folder:{path}/one"]
    )
    assert all(len(name) <= 110 for name in names)
    assert len(set(names)) == 3


def circle(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "loop"


def dangling(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path / "link"


@pytest.mark.parametrize(
    "make", [circle, dangling, lambda place: place / ("x" * 300)], ids=["loop", "dangling", "long"]
)
@pytest.mark.parametrize("flag", ["--runs", "--data"])
def test_a_path_that_cannot_be_one(tmp_path, make, flag):
    path = make(tmp_path)
    config = dataclasses.replace(
        RunConfig(), dataset="cifar10" if flag == "--data" else "digits", epochs=1
    )
    flags = [f"--{name}={value}" for name, value in config.to_dict().items()]
    other = ["--runs", tmp_path / "runs"] if flag == "--data" else []
    assert path.name[:20] in refused("benchmark", *flags, *FLAGS, flag, path, *other)
    assert refused("analysis", path)


def test_a_folder_of_runs_whose_name_is_no_utf8(tmp_path):
    runs = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    tiny = "--width 0.0625 --epochs 1 --train-limit 20 --score-samples 10 --probe-samples 10"
    result = command("benchmark", *tiny.split(), "--measure", "none", *FLAGS, "--runs", runs)
    assert result.returncode in (0, 2), result.stderr
    assert "Traceback" not in result.stderr
    report = command("analysis", runs, "--out", tmp_path / "report")
    assert report.returncode in (0, 2), report.stderr
    assert "Traceback" not in report.stderr


def test_a_reader_that_has_had_enough(tmp_path):
    path = grid(tmp_path / "g.yaml", seed={"values": list(range(3000))})
    line = f"{sys.executable} -m sweeps status {path} --runs {tmp_path} --json | head -c 10"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False
    )
    assert len(result.stdout) == 10
    assert result.stderr == ""
    assert result.returncode == 141
