"""Replayed steps around a capture that only runs the step again; `test_gpu` has the real one."""

import contextlib
import dataclasses
import warnings

import pytest
import torch

from benchmark.errors import is_out_of_memory
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

    def on_the_side(self, step, device):
        self.aside += 1
        step()

    def capture(self, step, stream):
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
    monkeypatch.setattr(steps, "side_stream", lambda device: None)
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
    def refuse(step, stream):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    wanted = history(options, "replayed")
    monkeypatch.setattr(steps, "captured", refuse)
    with pytest.warns(
        UserWarning,
        match="CUDA cannot capture a training step of vgg13: operation not permitted when",
    ):
        assert history(options, "refused") == wanted
    summaries = [
        Record(options.runs / name / CONFIG.run_id).summary() for name in ("replayed", "refused")
    ]
    assert summaries[0]["eager"] == ""
    assert summaries[1]["eager"] == "operation not permitted when stream is capturing"


def test_a_gpu_that_is_full_is_no_step_that_cannot_be_captured(options, log, monkeypatch):
    def full(step, stream):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "captured", full)
    with pytest.raises(torch.OutOfMemoryError):
        history(options, "full")


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: operation not permitted when stream is capturing", False),
    ],
)
def test_errors_of_a_full_gpu_are_known_by_their_texts(said, full):
    """Also where the end of a capture hides them."""
    error, hiding = RuntimeError(said), RuntimeError("the capture was not ended")
    hiding.__context__ = error
    assert [is_out_of_memory(error), is_out_of_memory(hiding)] == [full, full]


class Cuda:
    """Streams, and graphs that capture what runs on the stream of the device that they are on."""

    def __init__(self, empty=False):
        self.empty, self.streams, self.captured_on, self.waited = empty, [], [], []
        self.Stream, self.current = self._stream, None

    def _stream(self, device=None):
        self.streams.append(device)
        return self.Wait(self, device)

    @dataclasses.dataclass
    class Wait:
        cuda: object
        device: object

        def wait_stream(self, other):
            self.cuda.waited.append((self.device, other.device))

    def current_stream(self, device):
        return self.current or self.default_stream(device)

    def default_stream(self, device):
        return self.Wait(self, ("default", device))

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    class CUDAGraph:
        def replay(self):
            return None

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.captured_on.append(stream.device)
        yield
        if self.empty:
            warnings.warn(
                "The CUDA Graph is empty. This usually means that the graph was attempted to be "
                "captured on wrong device or stream.",
                stacklevel=2,
            )


def test_each_device_has_one_stream_for_warming_up_and_capturing(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(steps.torch, "cuda", cuda)
    steps._stream.cache_clear()
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    for device in (first, second, first):
        steps.on_the_side(lambda: None, device)
        steps.captured(lambda: None, steps.side_stream(device))
    assert cuda.streams == [first, second]
    assert cuda.captured_on == [first, second, first]
    assert (first, ("default", first)) in cuda.waited
    cuda.current = cuda.Stream("of a run")
    assert steps.side_stream(first) is cuda.current
    steps._stream.cache_clear()


def test_an_empty_graph_is_an_error(monkeypatch):
    monkeypatch.setattr(steps.torch, "cuda", Cuda(empty=True))
    with pytest.raises(AssertionError, match="another device"):
        steps.captured(lambda: None, Cuda().Stream(torch.device("cuda:1")))


def test_steps_are_replayed_on_a_gpu_alone():
    assert steps.step_kind(torch.device("cpu")) is steps.Step
    assert steps.step_kind(torch.device("cuda:1")) is ReplayedStep
