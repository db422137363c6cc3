"""The commands as a user meets them: help, bad input, exit statuses, and what is imported."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark import __version__, registry
from benchmark.cli import check_file
from benchmark.errors import UserError
from benchmark.options import Options
from tests.support.commands import command, refusal

TINY = {
    "width": 0.0625,
    "epochs": 1,
    "train-limit": 60,
    "score-samples": 20,
    "probe-samples": 20,
    "threads": 1,
}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]


def imported(code):
    """Top-level modules that a piece of code imports."""
    script = (
        f"import sys\n{code}\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_help_names_every_field_and_imports_no_torch():
    from benchmark.config import DEFAULTS

    result, alone = (
        subprocess.run(
            [sys.executable, "-m", "benchmark", *arguments],
            capture_output=True, text=True, check=False,
        )
        for arguments in (["--help"], [])
    )  # fmt: skip
    assert result.returncode == 0
    assert (alone.returncode, alone.stdout) == (0, result.stdout)  # no run of 160 epochs
    assert all(f"--{name.replace('_', '-')}" in result.stdout for name in DEFAULTS)
    for kind in registry.KINDS:
        assert set(registry.names(kind)) <= set(re.findall(r"\w+", result.stdout)), kind
    heavy = {"torch", "pandas", "matplotlib", "wandb", "sklearn"}
    commands = ("benchmark.__main__", "sweeps.__main__", "analysis.__main__")
    for module in (*commands, "benchmark.measures", "sweeps.grid", "sweeps.engines.local"):
        assert not imported(f"import {module}") & heavy, module


@pytest.mark.parametrize("line", [["benchmark"], ["sweeps"], ["sweeps", "run"], ["analysis"]])
def test_version(line):
    result = command(*line, "--version")
    assert (result.returncode, result.stdout) == (0, f"flowprune {__version__}\n"), result.stderr


def test_one_run(tmp_path):
    result = command(
        "benchmark",
        *FLAGS,
        "--device",
        "cpu",
        "--runs",
        tmp_path,
        "--wandb",
        "disabled",
        "--train_limit=60",
    )
    assert result.returncode == 0, result.stderr
    first, epoch, _ = result.stdout.splitlines()
    (folder,) = tmp_path.glob("*-s0")
    assert first == (
        f"run {folder.name}: magnitude vgg13 digits p0.75 @0x1 s0, 1 epoch on cpu with 1 thread, "
        f"record in {folder}"
    )
    assert epoch.startswith("epoch   1/1  train loss")
    assert "finished, test accuracy" in result.stdout
    assert len(list(tmp_path.glob("*/summary.json"))) == 1


def test_disabled_tracking_imports_no_wandb(tmp_path):
    code = (
        f"from benchmark.run import run; from benchmark.options import Options\n"
        f"from pathlib import Path; from tests.conftest import tiny_run\n"
        f"runs = Path({str(tmp_path)!r})\n"
        f"run(tiny_run(epochs=1), Options(runs=runs, wandb='disabled', device='cpu'))"
    )
    assert "wandb" not in imported(code)


def write_grid(path, **changes):
    import yaml

    grid = {"method": "grid", "parameters": {"measure": {"values": ["loss"]}}} | changes
    path.write_text(yaml.safe_dump(grid))
    return path


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("benchmark", ["--measure", "gravity"], "measure must be one of"),
        ("benchmark", ["--ratio", "1.5"], "ratio must be between 0 and 1, both excluded, got 1.5"),
        ("benchmark", ["--ratio", "much"], "could not convert string to float: 'much'"),
        ("benchmark", ["--mesure", "loss"], "--mesure"),
        (
            "benchmark",
            ["--wandb", "maybe"],
            "wandb must be one of offline, online, disabled, got 'maybe'",
        ),
        (
            "benchmark",
            ["--device", "abacus", "--wandb", "disabled"],
            "device must be auto, cpu, cuda[:N] or mps",
        ),
        (
            "benchmark",
            ["--dataset", "folder:nowhere", "--wandb", "disabled"],
            "data folder nowhere/train is missing",
        ),
        (
            "benchmark",
            ["--dataset", "cifar10", "--data", "broken"],
            "train.npz is cut short or corrupt",
        ),
        ("sweeps", ["plan", "nowhere.yaml"], "grid file nowhere.yaml does not exist"),
        ("sweeps", ["run", "misspelt.yaml"], "unknown parameter 'mesure'"),
        ("sweeps", ["status", "nested.yaml"], "must have either value or values"),
        ("sweeps", ["plan", "empty.yaml"], "values of 'seed' must be a list that is not empty"),
        ("sweeps", ["plan", "type.yaml"], "rounds must be a whole number, got 'five'"),
        ("sweeps", ["plan", "key.yaml"], "unknown key 'paramters'"),
        ("sweeps", ["plan", "random.yaml"], "method must be 'grid', got 'random'"),
        ("analysis", ["runs"], "runs"),
        ("analysis", ["nowhere"], "nowhere"),
        ("analysis", ["runs", "--grid", "misspelt.yaml"], "unknown parameter 'mesure'"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path, module, arguments, message):
    (tmp_path / "runs").mkdir()
    (tmp_path / "broken" / "cifar10").mkdir(parents=True)
    np.savez(tmp_path / "broken" / "cifar10" / "train.npz", images=np.zeros(3000))
    whole = (tmp_path / "broken" / "cifar10" / "train.npz").read_bytes()
    (tmp_path / "broken" / "cifar10" / "train.npz").write_bytes(whole[:1000])
    write_grid(tmp_path / "misspelt.yaml", parameters={"mesure": {"value": "loss"}})
    write_grid(
        tmp_path / "nested.yaml", parameters={"measure": {"parameters": {"a": {"value": 1}}}}
    )
    write_grid(tmp_path / "empty.yaml", parameters={"seed": {"values": []}})
    write_grid(tmp_path / "type.yaml", parameters={"rounds": {"values": [1, "five"]}})
    write_grid(tmp_path / "key.yaml", paramters={})
    write_grid(tmp_path / "random.yaml", method="random")
    result = command(module, *arguments, cwd=tmp_path)
    assert message in refusal(result)


def test_devices_and_files_that_cannot_be_used_are_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"device must be auto, cpu, cuda\[:N\] or mps, got 'meta'"):
        Options(device="meta").torch_device()
    check_file("json", None)
    check_file("json", tmp_path / "new.json")
    for path in (tmp_path, tmp_path / "no" / "new.json"):
        with pytest.raises(UserError, match="json must be a file in a folder that exists"):
            check_file("json", path)


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('you tried to allocate memory')"])
def test_a_machine_without_memory_is_one_line(error):
    code = f"from benchmark.cli import guarded\ndef command():\n    raise {error}\nguarded(command)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert refusal(result).startswith("out of memory (")


def test_a_sweep_online_without_a_key_starts_nothing(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    grid = Path(__file__).parents[2] / "sweeps" / "demo.yaml"
    line = ["run", grid, "--runs", tmp_path / "runs", "--wandb", "online"]
    result = command("sweeps", *line, cwd=tmp_path)
    assert refusal(result) == (
        "wandb online needs an API key: `wandb login`, or set WANDB_API_KEY, or use --wandb offline"
    )
    assert not (tmp_path / "runs").exists()


def test_a_warning_is_one_line(tmp_path):
    flags = ["--ratio=0.97", "--arch=resnet20", "--measure=magnitude", "--wandb=disabled"]
    line = [sys.executable, "-m", "benchmark", *FLAGS, *flags, "--device=cpu", f"--runs={tmp_path}"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("warning: cut 1 of 1 keeps ")
    assert result.stderr.count("\n") == 1
