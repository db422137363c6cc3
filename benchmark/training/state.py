"""The state of a run between two epochs, and its checkpoint."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmark.config import RunConfig, stream_seed
from benchmark.data import check_data
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.models import Net, build
from benchmark.pruning import masked
from benchmark.pruning.masks import kept_indices, take
from benchmark.training.optimizer import SGD
from benchmark.training.step import Step

FORMAT = 2
UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    KeyError,
    EOFError,
    ValueError,
)
"""What a file that is no checkpoint makes its readers raise."""
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""What a full or a failing GPU raises, which says nothing of the file."""


@dataclass
class State:
    """Where a run is. Random streams are functions of the seed and the epoch, so there is no RNG
    state to keep."""

    model: Net
    optimizer: torch.optim.Optimizer
    origin: dict[str, torch.Tensor]
    """{conv name: index of each filter in the original net}"""
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    """The rows of all epochs so far, row 0 included."""
    cuts: list[dict] = field(default_factory=list)
    """The rows of all cuts so far."""
    ranked: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    """{measure: {conv name: scores [filters]}} of a cut just made, until the next epoch is trained;
    never saved: a run that stops between the two makes its cut again."""
    step: Step | None = None
    """How the last epoch took its steps; never saved."""

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return max(len(self.history) - 1, 0)


def fresh(config: RunConfig, num_classes: int, device: torch.device) -> State:
    """The state before training: initial weights depend on (arch, width, data set, seed) alone."""
    model = prepared(initial_net(config, num_classes), device)
    origin = {name: torch.arange(filters) for name, filters in model.plan.items()}
    return State(model, make_optimizer(model, config), origin)


def initial_net(
    config: RunConfig, num_classes: int, plan: dict[str, int] | None = None, salt: str = "init"
) -> Net:
    """A net with torch's default initialisation, drawn from a named stream of the run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(salt, config, "arch", "width", "dataset"))
        return build(config.arch, num_classes, config.width, plan)


def reinitialised(config: RunConfig, num_classes: int, plan: dict[str, int], round: int) -> Net:
    """The fresh net that the ablation `reinit` goes on with after cut number `round`."""
    return initial_net(config, num_classes, plan, salt=f"reinit {round}")


def initial_weights(config: RunConfig, state: State) -> dict[str, torch.Tensor]:
    """{conv name: the weights that the filters of `state.model` had at their (last)
    initialisation}."""
    if config.ablation == "reinit" and state.cuts:
        net = reinitialised(config, state.model.num_classes, state.model.plan, len(state.cuts))
        return {name: net.get_submodule(name).weight.detach() for name in net.convs}
    net = initial_net(config, state.model.num_classes)
    weights = {}
    for name, conv in net.convs.items():
        inputs = () if conv.depthwise else net.writers.get(conv.reads, ())[-1:]
        columns = [state.origin[writer] for writer in inputs]
        weights[name] = take(
            net.get_submodule(name).weight.detach(), (state.origin[name], *columns)
        )
    return weights


def prepared(model: Net, device: torch.device) -> Net:
    """The net on its device, channels last in memory."""
    return model.to(device).to(memory_format=torch.channels_last)


def make_optimizer(model: Net, config: RunConfig) -> torch.optim.SGD:
    """SGD with weight decay on all parameters, one fused kernel per step."""
    return SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def carry_momentum(
    state: State, keep: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, model: Net
) -> None:
    """Give `optimizer` (of the compact `model`) the momentum of what is left of `state.model`."""
    source = masked(state.model, keep)
    indices = kept_indices(source)
    for (name, old), new in zip(state.model.named_parameters(), model.parameters(), strict=True):
        buffer = state.optimizer.state.get(old, {}).get("momentum_buffer")
        if buffer is not None:
            kept = take(buffer, indices.get(name, ()))
            optimizer.state[new]["momentum_buffer"] = torch.empty_like(new).copy_(kept)
    for name, conv in model.convs.items():  # a masked filter must not drift
        norm = model.get_submodule(conv.norm)
        for parameter in (model.get_submodule(name).weight, norm.weight, norm.bias):
            if "momentum_buffer" in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"][~model.mask(name)] = 0


def save(
    path: Path, state: State, config: RunConfig, data: str, *, previous: Path | None = None
) -> None:
    """Write a checkpoint, atomically; what it replaces is kept as `previous`. data: digest of the
    data set."""
    model = state.model
    content = {
        "format": FORMAT,
        "run_id": config.run_id,
        "threads": torch.get_num_threads(),
        "data": data,
        "num_classes": model.num_classes,
        "plan": model.plan,
        "original": model.original,
        "masks": {name: mask.cpu() for name, mask in model.masks().items()},
        "model": model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "origin": state.origin,
        "seconds": state.seconds,
        "history": state.history,
        "cuts": state.cuts,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue(), previous)


def load(path: Path, config: RunConfig, device: torch.device, data: str) -> State | None:
    """Read a checkpoint of the run that `config` describes, trained on the data set with the digest
    `data`.

    One that is corrupt or another run's is set aside with a warning, and the answer is None. Raises
    `UserError` for one that a newer version wrote, or that was computed with other data or another
    number of CPU threads.
    """
    try:
        content = _read(path)
        if content["format"] <= FORMAT:
            state = _restored(content, config, device)
            check_data(f"checkpoint {path}", config.dataset, content["data"], data)
            if device.type == "cpu":
                _check_threads(path, content["threads"])
            return state
    except UserError:
        raise
    except FileNotFoundError:  # the process that trains a dense phase has just removed it
        return None
    except DEVICE_ERRORS:
        raise
    except (_UnusableError, *UNREADABLE) as error:
        aside = path.with_name(f"{path.name}.unusable")
        with contextlib.suppress(FileNotFoundError):  # another reader was first
            path.replace(aside)
        warnings.warn(f"checkpoint {path} is set aside as {aside.name}: {error}", stacklevel=2)
        return None
    raise UserError(
        f"checkpoint {path} has format {content['format']}, this version reads up to {FORMAT}: update flowprune, or "
        "remove the file to begin the run anew"
    )


def _check_threads(path: Path, threads: int) -> None:
    if threads != torch.get_num_threads():
        raise UserError(
            f"threads must be {threads}, got {torch.get_num_threads()}: checkpoint {path} was computed with {threads}, "
            "and another number changes the last bits (or use another folder of runs)"
        )


class _UnusableError(Exception):
    """A checkpoint that cannot be gone on from."""


def _read(path: Path) -> dict:
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch does not look at the checksums
        if broken := archive.testzip():
            raise _UnusableError(f"its part {broken} is corrupt")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _restored(content: dict, config: RunConfig, device: torch.device) -> State:
    if content["run_id"] != config.run_id:
        raise _UnusableError(f"it belongs to run {content['run_id']}")
    model = prepared(build(config.arch, content["num_classes"], plan=content["plan"]), device)
    model.original = dict(content["original"])
    model.load_state_dict(content["model"])
    for name, mask in content["masks"].items():
        model.set_mask(name, mask.to(device))
    optimizer = make_optimizer(model, config)
    optimizer.load_state_dict(content["optimizer"])
    return State(
        model, optimizer, content["origin"], content["seconds"], content["history"], content["cuts"]
    )
