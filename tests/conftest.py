"""Shared fixtures: one thread per test process, tiny nets, tiny data, tiny runs."""

import dataclasses
import hashlib
import os
import tempfile

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), "flowprune-tests")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark import initial, outside
from benchmark.config import RunConfig
from benchmark.contracts import narrow_net, random_images
from benchmark.models import Net
from benchmark.options import Options
from benchmark.registry import names
from benchmark.tracking.api import stop_asking
from tests.support.components import COSINE, DATA, NET
from tests.support.wandb_server import Server, serving

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # no test cuts the power, so none needs to wait for the disk

TINY = {"vgg13": 0.125, "mobilenet_v1": 0.125}
"""Widths at which every architecture is quick."""


DEEP = ("resnet34", "resnet56")
"""Architectures of the same blocks as `resnet18` and `resnet20`, only more of them."""


def every_arch() -> list:
    """All architectures, as parameters of a dear test; the deep ones are slow."""
    slow = pytest.mark.slow
    return [pytest.param(arch, marks=slow) if arch in DEEP else arch for arch in names("models")]


def tiny_net(arch: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A narrow net whose BN statistics and biases are not at their initial values."""
    return narrow_net(arch, TINY.get(arch, 0.0625), seed, dtype)


tiny_images = random_images


def tiny_run(**fields: object) -> RunConfig:
    """A run on digits of less than a second."""
    small = {
        "width": 0.0625,
        "epochs": 3,
        "train_limit": 60,
        "test_limit": 40,
        "batch_size": 20,
        "score_samples": 30,
        "probe_samples": 20,
        "ratio": 0.5,
    }
    return RunConfig(**{**small, **fields})


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the components and weights of another one."""
    for module, name in ((outside, "_given"), (outside, "_runs"), (initial, "_given")):
        monkeypatch.setattr(module, name, {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with components, the working one."""
    (tmp_path / "my").mkdir()
    for name, text in {"cosine": COSINE, "stripes": DATA, "net": NET}.items():
        (tmp_path / "my" / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        runs=tmp_path / "runs",
        data=tmp_path / "data",
        wandb="disabled",
        device="cpu",
        threads=1,
        checkpoint_seconds=0,
    )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A W&B server that this process and its children use."""
    import wandb

    with serving() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # it remembers the address that it read first
        yield server
        server.release()
        stop_asking()


@pytest.fixture
def our_sums(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of `tests.benchmark.test_data.write_pickles` pass for the official ones."""
    from benchmark.data import cifar10
    from tests.benchmark.test_data import write_pickles

    folder = write_pickles(tmp_path_factory.mktemp("official"))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(cifar10, "RELEASE", dataclasses.replace(cifar10.RELEASE, sums=sums))
