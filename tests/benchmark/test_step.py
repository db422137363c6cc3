"""Replayed steps around a capture that only runs the step again; `test_gpu` has the real one."""

import pytest
import torch

from benchmark.record import Record
from benchmark.run import run
from benchmark.training import epoch as train
from benchmark.training import step as steps
from benchmark.training.step import EAGER, ReplayedStep
from tests.conftest import tiny_run

CONFIG = tiny_run(measure="loss", prune_epoch=2, rounds=2, epochs=8, train_limit=130, batch_size=20)
BATCHES, REST = divmod(CONFIG.train_limit, CONFIG.batch_size)


class Log:
    """What was done with steps."""

    def __init__(self) -> None:
        self.aside = self.captured = self.replayed = 0

    def on_the_side(self, step):
        self.aside += 1
        step()

    def capture(self, step):
        self.captured += 1

        def replay():
            self.replayed += 1
            step()

        return replay


@pytest.fixture
def log(monkeypatch):
    log = Log()
    monkeypatch.setattr(train, "step_kind", lambda device: ReplayedStep)
    monkeypatch.setattr(steps, "on_the_side", log.on_the_side)
    monkeypatch.setattr(steps, "captured", log.capture)
    return log


def history(options, name):
    run(
        CONFIG,
        there := type(options)(
            runs=options.runs / name, data=options.data, wandb="disabled", device="cpu"
        ),
    )
    rows = Record(there.runs / CONFIG.run_id).history()
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")} for row in rows
    ]


@pytest.mark.slow
def test_a_run_of_replayed_steps_has_the_numbers_of_eager_ones(options, log, monkeypatch):
    replayed = history(options, "replayed")
    with monkeypatch.context() as eagerly:
        eagerly.setattr(train, "step_kind", lambda device: steps.Step)
        assert history(options, "eager") == replayed
    nets = 1 + CONFIG.rounds  # dense, and after each cut
    drops = 2
    assert REST, "there must be a batch of another size"
    assert log.captured == nets + drops
    assert log.aside == EAGER * (nets + drops)
    assert log.aside + log.replayed == BATCHES * CONFIG.epochs


@pytest.mark.slow
def test_what_cannot_be_captured_is_trained_eagerly_and_said(options, log, monkeypatch):
    def refuse(step):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    wanted = history(options, "replayed")
    monkeypatch.setattr(steps, "captured", refuse)
    with pytest.warns(
        UserWarning,
        match="CUDA cannot capture a training step of vgg13: operation not permitted when",
    ):
        assert history(options, "refused") == wanted


def test_steps_are_replayed_on_a_gpu_alone():
    assert steps.step_kind(torch.device("cpu")) is steps.Step
    assert steps.step_kind(torch.device("cuda:1")) is ReplayedStep
