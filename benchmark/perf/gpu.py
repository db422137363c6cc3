"""`python -m benchmark.perf.gpu`: everything to measure on a new GPU, best value first.

Each measurement is one JSON object in `gpu.jsonl`, written as soon as it is there, so that a visit
that ends early loses nothing; `gpu.md` holds the same as tables. On a CPU (`--device cpu --tiny`)
all of it runs eagerly on tiny nets, which tries the command out and measures nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product, repeat
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from benchmark.cli import guarded, parse
from benchmark.errors import UserError, is_out_of_memory, one_line, require, require_one_of
from benchmark.options import Options
from benchmark.provenance import ROOT

if TYPE_CHECKING:
    import torch

    from benchmark.models import Net

DESCRIPTION = (
    "Measure a GPU: the tests marked gpu, equal bits, images/s of one run and of packed runs, what "
    "an epoch costs beside its steps, the card's ceilings, the largest kernels."
)
ARCHS = ("vgg13", "mobilenet_v1", "resnet56")
SECTIONS = (
    "tests", "rates", "packed", "equal", "engine", "fixed", "ceilings", "kernels", "layouts"
)  # fmt: skip
PRECISIONS = ("bf16", "tf32", "float32")
KINDS = ("dense", "pruned", "padded")
"""The whole net; 75 % of its filters gone by magnitude; the same with widths that are multiples
of 8."""
LANES = (1, 8, 16, 2, 4)
MODEL = {
    "vgg13": {"bf16": (124, 140), "tf32": (72, 84), "float32": (27, 28)},
    "mobilenet_v1": {"bf16": (116, 134), "tf32": (79, 105), "float32": (60, 72)},
    "resnet56": {"bf16": (59, 63), "tf32": (42, 49), "float32": (32, 36)},
}
"""Thousand images/s of one dense run on (H100, H200), by a model of each kernel: 2.2 µs per launch,
0.9 of the copy rate, assumed rates of arithmetic (docs/performance.md)."""
SHARES = {"tests": 0.3, "packed": 0.25, "equal": 0.15}
"""Of the seconds: for how long measurements of a section begin, so that it leaves time for the
others."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What to measure, for how long, and where to write it."""

    out: Path
    """Folder of gpu.jsonl and gpu.md."""
    seconds: float = 300.0
    """No measurement begins after so many seconds."""
    device: str = "cuda"
    """cuda, cuda:1, ..., or cpu to try the command out."""
    tiny: bool = False
    """Tiny nets, two steps each: nothing is measured, everything is run."""
    archs: tuple[str, ...] = ARCHS
    """Architectures."""
    sections: tuple[str, ...] = SECTIONS
    """What to do, in this order: tests, rates, packed, equal, engine, fixed, ceilings, kernels,
    layouts."""


@dataclass(frozen=True)
class Size:
    """How large measurements are."""

    batch: int
    width: float
    steps: int
    train: int
    test: int
    probe: int
    matrix: int
    block: int
    repeats: int
    runs: int


FULL = Size(128, 1.0, 60, 50_000, 10_000, 512, 8192, 2**29, 3, 8)
TINY = Size(8, 0.125, 2, 64, 16, 16, 256, 2**16, 1, 2)
BATCHES = 8
"""Batches of the epoch that a lane trains on again and again."""
NOISE = """
import numpy as np
from benchmark.data import Images


def load(root, path):
    draw = np.random.default_rng(0)
    parts = []
    for count in ({train}, {test}):
        parts.append(draw.integers(0, 256, (count, 32, 32, 3), np.uint8))
        parts.append(np.arange(count) % 10)
    train, train_labels, test, test_labels = parts
    return Images(train, train_labels, test, test_labels, tuple("0123456789"), True)
"""
"""A data set of random images."""


@dataclass
class Visit:
    """The machine, the size of measurements, the deadline, and where results go."""

    device: torch.device
    size: Size
    archs: tuple[str, ...]
    seconds_in_all: float
    file: TextIO
    rows: list[dict] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.start + self.seconds_in_all - time.monotonic()

    def synchronise(self) -> None:
        """Wait for the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def note(self, **row: object) -> None:
        """Write one measurement, and print it."""
        self.rows.append(row)
        print(json.dumps(row), file=self.file, flush=True)
        print("  ".join(f"{key} {told(value)}" for key, value in row.items()), flush=True)

    def seconds(self, call: Callable[[], object]) -> list[float]:
        """Seconds of each repetition, after one that warms up."""
        return [self.timed(call) for _ in range(self.size.repeats + 1)][1:]

    def timed(self, call: Callable[[], object]) -> float:
        """Seconds of a call, all of its work on the device included."""
        self.synchronise()
        start = time.perf_counter()
        call()
        self.synchronise()
        return time.perf_counter() - start


def told(value: object) -> str:
    """A value as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the command."""
    command = parse(Gpu, "python -m benchmark.perf.gpu", DESCRIPTION)
    guarded(lambda: execute(command))


def execute(command: Gpu) -> int:
    """Do all sections within the seconds; returns 1 if the tests failed, else 0."""
    import torch

    require(command.seconds > 0, "seconds", command.seconds, "above 0")
    for section in command.sections:
        require_one_of("sections", section, SECTIONS)
    options = Options(device=command.device, wandb="disabled")
    options.prepare()
    command.out.mkdir(parents=True, exist_ok=True)
    size = TINY if command.tiny else FULL
    with (command.out / "gpu.jsonl").open("w") as file:
        visit = Visit(options.torch_device(), size, command.archs, command.seconds, file)
        visit.note(
            section="machine", device=options.device_name(), torch=torch.__version__,
            cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), tiny=command.tiny,
            date=time.strftime("%Y-%m-%d"),
        )  # fmt: skip
        with options.applied():
            for section in command.sections:
                _section(visit, section, command.out)
    failed = any(row["section"] == "tests" and row.get("status") != 0 for row in visit.rows)
    return int(failed)


def _section(visit: Visit, section: str, out: Path) -> None:
    end = time.monotonic() + SHARES.get(section, 1.0) * visit.seconds_in_all
    for row, measure in MEASUREMENTS[section](visit):
        if visit.left < 0 or time.monotonic() > end:
            visit.note(section="out of time", before=section)
            return
        start = time.monotonic()
        try:
            found = measure()
        except UserError:
            raise
        except Exception as error:  # the next measurement may work
            found = {"error": f"{type(error).__name__}: {one_line(error)}"[:300]}
            if "CUDA error" in str(error) and not is_out_of_memory(error):
                visit.note(section=section, **row, **found)
                raise UserError(f"the GPU no longer responds: {found['error']}") from None
        visit.note(section=section, **row, **found, took=round(time.monotonic() - start, 2))
        _free(visit)
        (out / "gpu.md").write_text(tables(visit.rows), encoding="utf-8")


def _free(visit: Visit) -> None:
    import torch

    if visit.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(visit.device)


Measurement = tuple[dict[str, object], Callable[[], dict[str, object]]]
"""What is measured, in words, and how."""


def gpu_tests(visit: Visit) -> Iterator[Measurement]:
    """The tests marked gpu, where the command runs in a clone."""

    def measure() -> dict[str, object]:
        limit = max(visit.left * SHARES["tests"], 1)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--timeout", f"{limit:.0f}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit + 30, check=False
            )
        except subprocess.TimeoutExpired:
            return {"status": -1, "said": f"not finished within {limit:.0f} s"}
        return {"status": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}

    if visit.device.type == "cuda" and Path("tests").is_dir():
        yield {}, measure


def net_of(visit: Visit, arch: str, kind: str) -> Net:
    """An architecture, dense, pruned or padded, with the weights of one seed."""
    import torch

    from benchmark.measures import score
    from benchmark.models import build
    from benchmark.pruning import select, shrink

    torch.manual_seed(0)
    net = build(arch, width=visit.size.width)
    if kind != "dense":
        images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
        scores = score(net, "magnitude", images, torch.zeros(2, dtype=torch.long))
        keep = select(net, scores, 0.75)
        net = shrink(net, keep, multiple=8 if kind == "padded" else 1).net
    return net


class Lane:
    """One net with its optimizer, stream and, on a GPU, the graph of a training step."""

    def __init__(
        self, visit: Visit, arch: str, precision: str, kind: str = "dense",
        *, layout: str = "nhwc", graph: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        import torch

        from benchmark.config import RunConfig
        from benchmark.data._batches import drawn_epoch
        from benchmark.training.step import EAGER, ReplayedStep, Step, make_optimizer

        memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        self.visit, self.precision = visit, precision
        self.net = net_of(visit, arch, kind).to(visit.device).to(memory_format=memory).train()
        config = RunConfig(arch=arch, precision=precision, batch_size=visit.size.batch, lr=1e-3)
        self.stream = torch.cuda.Stream(visit.device) if visit.device.type == "cuda" else None
        kind_of_step = ReplayedStep if self.stream and graph else Step
        step = kind_of_step(self.net, make_optimizer(self.net, config), config)
        draw, count = torch.Generator().manual_seed(seed), BATCHES * visit.size.batch
        images = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw)
        labels = torch.randint(10, (count,), generator=draw)
        epoch = drawn_epoch(
            images.to(visit.device), labels.to(visit.device), order_seed=seed, augment_seed=seed
        )
        self._taken = chain.from_iterable(step.taken(epoch) for _ in repeat(None))
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(visit.device))
        for _ in range(EAGER + 1 if self.stream else 1):
            self()

    def __call__(self) -> None:
        """Queue one step, as a run takes it: the batch is put together too."""
        with self._there():
            next(self._taken)

    def _there(self) -> ExitStack:
        import torch

        from benchmark.flow import tf32

        stack = ExitStack()
        stack.enter_context(tf32(self.precision == "tf32"))
        if self.stream:
            stack.enter_context(torch.cuda.stream(self.stream))
        return stack


def rate(visit: Visit, lanes: list[Lane]) -> dict[str, object]:
    """Images/s of all lanes together (median), and what the host takes to queue a step."""
    import torch

    steps = max(visit.size.steps // len(lanes), 2)
    host = []

    def epoch() -> None:
        start = time.perf_counter()
        for _ in range(steps):
            for lane in lanes:
                lane()
        host.append((time.perf_counter() - start) / steps / len(lanes) * 1e6)

    times = visit.seconds(epoch)
    images = steps * len(lanes) * visit.size.batch
    there = visit.device.type == "cuda"
    reserved = torch.cuda.max_memory_reserved(visit.device) / 2**30 if there else 0.0
    return {
        "images_per_second": images / statistics.median(times), "n": len(times),
        "spread": max(times) / min(times), "host_us": min(host), "reserved_gib": reserved,
    }  # fmt: skip


def _rate(visit: Visit, lanes: int = 1, **what: object) -> Measurement:
    def measure() -> dict[str, object]:
        return rate(visit, [Lane(visit, seed=seed, **what) for seed in range(lanes)])

    return {**what, "lanes": lanes}, measure


def rates(visit: Visit) -> Iterator[Measurement]:
    """One dense run at a time, replayed and eager; then a pruned and a padded one."""
    for precision, arch in product(PRECISIONS, visit.archs):
        yield _rate(visit, arch=arch, precision=precision)
    for kind, arch in product(("pruned", "padded"), visit.archs):
        yield _rate(visit, arch=arch, precision="bf16", kind=kind)
    for arch in visit.archs:
        yield _rate(visit, arch=arch, precision="bf16", graph=False)


def layouts(visit: Visit) -> Iterator[Measurement]:
    """The other layout in memory, and what was left out of the rates."""
    for precision, kind, arch in product(PRECISIONS, KINDS, visit.archs):
        yield _rate(visit, arch=arch, precision=precision, kind=kind, layout="nchw")
    for precision, kind, arch in product(PRECISIONS[1:], KINDS[1:], visit.archs):
        yield _rate(visit, arch=arch, precision=precision, kind=kind)


def packed(visit: Visit) -> Iterator[Measurement]:
    """Several runs in one process, each on its own stream."""
    lanes = LANES[:2] if visit.size is TINY else LANES
    for precision, count, kind, arch in product(
        PRECISIONS, lanes, ("padded", "dense"), visit.archs
    ):
        yield _rate(visit, count, arch=arch, precision=precision, kind=kind)


def engine(visit: Visit) -> Iterator[Measurement]:
    """Whole runs on the engine of the sweeps: packed into one process, and a process for each."""
    for kind, way in product(("pruned", "dense"), ("packed", "processes")):
        what = {"arch": visit.archs[0], "kind": kind, "way": way, "runs": visit.size.runs}
        yield what, partial(_engine, visit, kind, way)


def _engine(visit: Visit, kind: str, way: str) -> dict[str, object]:
    """Images/s of all runs together, by their records, in the last of three epochs."""
    from benchmark.record import Record, run_folders

    size, dense = visit.size, kind == "dense"
    fields = {
        "measure": "none" if dense else "magnitude", "arch": visit.archs[0], "width": size.width,
        "dataset": "noise.py", "epochs": 3, "precision": "bf16", "batch_size": size.batch,
        "train_limit": size.train, "test_limit": size.test, "score_samples": size.probe,
        "probe_samples": size.probe,
    }  # fmt: skip
    parameters = {name: {"value": value} for name, value in fields.items()}
    parameters["seed"] = {"values": list(range(size.runs))}
    device = visit.device.type
    flag = {"packed": "--packed", "processes": "--per-gpu" if device == "cuda" else "--workers"}
    workers = ["--workers", "1"] if way == "packed" else []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "noise.py").write_text(NOISE.format(train=size.train, test=size.test))
        (place / "grid.yaml").write_text(
            json.dumps({"method": "grid", "parameters": parameters})  # JSON is YAML
        )
        command = [
            sys.executable, "-m", "sweeps", "run", "grid.yaml", "--device", device, *workers,
            flag[way], str(size.runs), "--wandb", "disabled",
        ]  # fmt: skip
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        limit = max(visit.left, 30.0)
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=limit,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        records = map(Record, run_folders(place / "runs"))
        last = [record.history()[-1]["time/images_per_second"] for record in records]
    return {"images_per_second": sum(last), "n": len(last)}


def equal(visit: Visit) -> Iterator[Measurement]:
    """Whether equal runs end with equal bits, with and without cuDNN's deterministic kernels, and
    what these cost."""
    import torch

    def measure(arch: str, precision: str, deterministic: bool) -> dict[str, object]:
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = deterministic
        try:
            ends = []
            for _ in range(2):
                lane = Lane(visit, arch, precision)
                seconds = visit.timed(lambda lane=lane: [lane() for _ in range(visit.size.steps)])
                speed = visit.size.steps * visit.size.batch / seconds
                weights = [p.detach().flatten().cpu() for p in lane.net.parameters()]
                ends.append(torch.cat(weights))
        finally:
            torch.backends.cudnn.deterministic = before
        difference = float((ends[0] - ends[1]).abs().max())
        return {
            "equal": bool(torch.equal(*ends)), "difference": difference, "images_per_second": speed
        }  # fmt: skip

    for precision, arch, deterministic in product(PRECISIONS, visit.archs, (True, False)):
        what = {"arch": arch, "precision": precision, "deterministic": deterministic}
        yield what, lambda what=what: measure(**what)


def fixed(visit: Visit) -> Iterator[Measurement]:
    """Seconds of an epoch that are not training."""
    for arch in visit.archs:
        for part, call in _fixed_parts(visit, arch).items():
            yield {"arch": arch, "part": part}, partial(_timed, visit, call)


def _timed(visit: Visit, call: Callable[[], object]) -> dict[str, object]:
    return {"seconds": statistics.median(visit.seconds(call)), "n": visit.size.repeats}


def _fixed_parts(visit: Visit, arch: str) -> dict[str, Callable[[], object]]:
    import torch

    from benchmark.config import RunConfig
    from benchmark.cost import cost
    from benchmark.data._batches import batches, drawn_epoch
    from benchmark.flow import evaluate, measure_flow, with_statistics_of
    from benchmark.training.checkpoint import Checkpoints
    from benchmark.training.state import fresh

    size, device = visit.size, visit.device
    images = torch.randint(256, (size.train, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.arange(size.train, device=device) % 10
    test, probe = (slice(0, count) for count in (size.test, size.probe))
    config = RunConfig(arch=arch, width=size.width)
    state = fresh(config, 10, device)
    for p in state.model.parameters():
        state.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def every_batch() -> None:
        drawn = drawn_epoch(images, labels, order_seed=1, augment_seed=2)
        for _ in batches(drawn, size.batch):
            pass

    def checkpoint(seconds: float) -> None:
        with tempfile.TemporaryDirectory() as folder, Checkpoints(config, "", seconds) as keep:
            keep.keep(state, Path(folder) / "checkpoint.pt")

    return {
        "batches": every_batch,
        "test": lambda: evaluate(state.model, images[test], labels[test], 5.0),
        "statistics": lambda: with_statistics_of(state.model, images[probe]),
        "flow": lambda: measure_flow(state.model, images[probe], labels[probe], 5.0),
        "cost, once per cut": lambda: cost(state.model),
        "checkpoint, the copy": lambda: checkpoint(1e9),
        "checkpoint, copied and written": lambda: checkpoint(0),
    }


def ceilings(visit: Visit) -> Iterator[Measurement]:
    """Rate of copying memory, and of matrix products by precision."""
    import torch

    from benchmark.flow import tf32

    def copy() -> dict[str, object]:
        source = torch.ones(visit.size.block, device=visit.device)
        target = torch.empty_like(source)
        seconds = statistics.median(visit.seconds(lambda: target.copy_(source)))
        return {"gb_per_second": 2 * source.nbytes / 1e9 / seconds, "n": visit.size.repeats}

    def multiply(precision: str) -> dict[str, object]:
        n = visit.size.matrix
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(n, n, device=visit.device).to(dtype) for _ in range(2))
        with tf32(precision == "tf32"):
            seconds = statistics.median(visit.seconds(lambda: torch.mm(a, b)))
        return {"tflop_per_second": 2 * n**3 / 1e12 / seconds, "n": visit.size.repeats}

    yield {"what": "copy"}, copy
    for precision in PRECISIONS:
        what = {"what": "matrix product", "precision": precision}
        yield what, lambda precision=precision: multiply(precision)


def kernels(visit: Visit) -> Iterator[Measurement]:
    """The largest kernels of an eager step."""
    from torch.profiler import ProfilerActivity, profile

    there = visit.device.type == "cuda"

    def measure(arch: str, precision: str) -> dict[str, object]:
        lane = Lane(visit, arch, precision, graph=False)
        visit.synchronise()
        with profile(activities=[ProfilerActivity.CUDA if there else ProfilerActivity.CPU]) as p:
            lane()
            visit.synchronise()
        name = "self_device_time_total" if there else "self_cpu_time_total"
        events = sorted(p.key_averages(), key=lambda e: -getattr(e, name))
        largest = [
            {"us": float(getattr(e, name)), "count": e.count, "kernel": e.key[:110]}
            for e in events[:10]
        ]
        return {"launches": sum(e.count for e in events), "largest": largest}

    for precision, arch in product(PRECISIONS, visit.archs):
        what = {"arch": arch, "precision": precision}
        yield what, lambda what=what: measure(**what)


MEASUREMENTS: dict[str, Callable[[Visit], Iterator[Measurement]]] = {
    "tests": gpu_tests, "rates": rates, "packed": packed, "equal": equal, "engine": engine,
    "fixed": fixed, "ceilings": ceilings, "kernels": kernels, "layouts": layouts,
}  # fmt: skip


def tables(rows: list[dict]) -> str:
    """The measurements as Markdown, a table per section; rates also as shares of the model."""
    machine = rows[0]
    parts = ["\n".join(f"- {key}: {value}" for key, value in machine.items() if key != "section")]
    for section in dict.fromkeys(row["section"] for row in rows[1:]):
        found = [
            with_share(row, str(machine["device"])) for row in rows if row["section"] == section
        ]
        columns = list(
            dict.fromkeys(k for row in found for k in row if k not in ("section", "largest"))
        )
        lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines += [
            "| " + " | ".join(told(row.get(key, "")) for key in columns) + " |" for row in found
        ]
        parts.append(f"## {section}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def with_share(row: dict, device: str) -> dict:
    """The row of one dense run on a card that the model knows, with the share of the modelled limit
    that it reaches."""
    limits = MODEL.get(row.get("arch"), {}).get(row.get("precision"))
    card = next((place for place, name in enumerate(("H100", "H200")) if name in device), None)
    dense = row["section"] == "rates" and row.get("kind", "dense") == "dense"
    if limits is None or card is None or not dense or "images_per_second" not in row:
        return row
    return row | {"share_of_model": row["images_per_second"] / (1e3 * limits[card])}


if __name__ == "__main__":
    main()
