"""`--init`: the weights that a run starts from."""

import dataclasses
import json

import pytest
import torch
import yaml

from benchmark import initial
from benchmark.__main__ import resolved
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.models import build
from benchmark.models._weights import digest
from benchmark.record import Record
from benchmark.run import run
from benchmark.training.checkpoint import load
from benchmark.training.state import initial_net, initial_weights
from sweeps.estimate import TrainSize, seconds_per_image
from sweeps.grid import load as load_grid
from sweeps.placement import try_out
from tests.conftest import tiny_run
from tests.support.commands import command
from tests.sweeps.test_sweeps import FLAGS

WIDTH = 0.0625


def net(seed=7, arch="vgg13", **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(arch, **{"width": WIDTH, **sizes})


def saved(path, content):
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path / "mine" / "net.pt", net().state_dict())


def test_the_same_weights_in_another_file_are_the_same_run(tmp_path):
    state = net().state_dict()
    shuffled = dict(reversed(state.items()))
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    contents = [state, shuffled, {"net": parallel, "acc": 91.0, "epoch": 160}, parallel]
    found = {
        initial.resolve(str(saved(tmp_path / f"{i}.pt", content)))
        for i, content in enumerate(contents)
    }
    assert len(found) == 1
    assert initial.resolve(found.copy().pop()) in found
    assert initial.resolve("") == ""


def test_a_digest_depends_on_names_types_shapes_and_bytes():
    weights = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    others = [
        weights | {"a": torch.arange(6.0).view(2, 3)},
        weights | {"a": torch.arange(6.0, dtype=torch.bfloat16)},
        weights | {"a": torch.arange(6.0).view(torch.int32)},
        weights | {"a": torch.tensor([0.0, 1, 2, 3, 4, 5.0000005])},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({digest(weights), *map(digest, others)}) == 1 + len(others)
    strided = torch.stack([weights["a"], weights["a"]], dim=1)[:, 0]
    assert digest(weights | {"a": strided}) == digest(weights)


def test_a_run_starts_from_the_weights(file, options):
    config = tiny_run(measure="loss_biased_init", prune_epoch=1, init=initial.resolve(str(file)))
    assert initial_net(config, 10).state_dict().keys() == net().state_dict().keys()
    for name, tensor in initial_net(config, 10).state_dict().items():
        assert torch.equal(tensor, net().state_dict()[name])
    control = dataclasses.replace(config, measure="none")
    rows = {}
    for one in (config, control, dataclasses.replace(control, init="", width=WIDTH)):
        run(one, options)
        rows[one.run_id] = Record(options.runs / one.run_id).history()
    pruned, dense, drawn = rows.values()
    assert pruned[0]["flow/weight_norm_sq"] == dense[0]["flow/weight_norm_sq"]
    assert pruned[0]["test/loss"] == dense[0]["test/loss"] != drawn[0]["test/loss"]
    assert pruned[1]["train/loss"] == dense[1]["train/loss"]  # one dense phase
    expected = sum(float(p.detach().double().square().sum()) for p in net().parameters())
    assert dense[0]["flow/weight_norm_sq"] == pytest.approx(expected, rel=1e-6)
    assert config.dense().init == config.init
    record = Record(options.runs / config.run_id)
    assert record.config().init == config.init


def test_the_weights_at_the_start_are_those_that_filters_moved_from(file, options, monkeypatch):
    config = tiny_run(measure="loss_biased_init", init=initial.resolve(str(file)))
    seen = []
    monkeypatch.setattr(
        "benchmark.training.cut.initial_weights",
        lambda *a: seen.append(initial_weights(*a)) or seen[-1],
    )
    run(config, options)
    for name in net().convs:
        assert torch.equal(seen[0][name], net().get_submodule(name).weight)


def stopped(config, options, epoch=1):
    def stop(progress):
        if progress.row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, options, stop)


def test_a_run_continues_without_the_file(file, options, tmp_path):
    """The folder of runs has a copy; a checkpoint does without it."""
    config = tiny_run(measure="loss_biased_init", prune_epoch=2, init=initial.resolve(str(file)))
    there = dataclasses.replace(options, runs=tmp_path / "whole")
    run(config, there)
    stopped(config, options)
    file.unlink()
    initial._given.clear()
    run(config, options)
    histories = [Record(folder / config.run_id).history() for folder in (there.runs, options.runs)]
    for row in (row for history in histories for row in history):
        del row["time/seconds"], row["time/images_per_second"]
    assert histories[0] == histories[1]


def test_a_checkpoint_needs_no_weights_and_a_new_run_does(file, options):
    config = tiny_run(measure="loss", prune_epoch=1, init=initial.resolve(str(file)))
    stopped(config, options, epoch=2)
    for copy in (file, *options.runs.glob("_init/*")):
        copy.unlink()
    initial._given.clear()
    record = Record(options.runs / config.run_id)
    assert load(record.checkpoint_file, config, torch.device("cpu"), json_data(options, config))
    assert run(config, options)["outcome"] == "finished"
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(UserError, match=rf"^init {config.init} is not here: give the file"):
        run(other, options)
    assert not (options.runs / other.run_id).exists()


def json_data(options, config):
    from benchmark import data

    return data.digest(config.dataset, options.data)


def test_a_file_that_changes_on_the_way_stops_the_run(file, options):
    config = tiny_run(init=initial.resolve(str(file)))
    saved(file, net(seed=8).state_dict())
    with pytest.raises(UserError, match=r"net.pt has changed: its digest is \w{12}, and the run"):
        run(config, options)


def infinite():
    state = net().state_dict()
    state["features.0.weight"][0, 0, 0, 0] = float("nan")
    return state


WRONG = {
    "wide": (
        lambda: net(width=0.125).state_dict(),
        "features.7.weight must have shape [8, 8, 3, 3] in this vgg13, got [16,",
    ),
    "classes": (lambda: net(num_classes=7).state_dict(), "is for 7 classes (classifier.weight)"),
    "resnet": (
        lambda: net(arch="resnet20").state_dict(),
        "is not of vgg13: it lacks features.0.weight",
    ),
    "more": (
        lambda: net().state_dict() | {"aux.weight": torch.ones(1)},
        "is not of vgg13, which has no aux.weight",
    ),
    "nan": (infinite, "features.0.weight must be finite"),
    "whole": (
        lambda: {k: v.to(torch.int64) for k, v in net().state_dict().items()},
        "must hold fractions, got torch.int64",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_are_one_line(name, tmp_path, options):
    content, message = WRONG[name]
    path = saved(tmp_path / f"{name}.pt", content())
    config = tiny_run(width=0.0625, init=initial.resolve(str(path)))
    with pytest.raises(UserError) as caught:
        run(config, options)
    said = str(caught.value)
    assert said.startswith(f"init file {path}")
    assert message in said
    assert "\n" not in said
    assert not (options.runs / config.run_id).exists()


def test_old_state_dicts_lack_the_counters_of_batch_norms(tmp_path):
    state = {k: v for k, v in net().state_dict().items() if "num_batches" not in k}
    config = tiny_run(init=initial.resolve(str(saved(tmp_path / "old.pt", state))))
    assert torch.equal(initial_net(config, 10).features[0].weight, net().features[0].weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"PK\x03\x04" + b"0" * 100, "cannot be read"),
        ({"net": 3}, "must be {'net': state dict}, a state dict or a model.pt"),
        ({}, "must be {'net': state dict}"),
        ([torch.ones(2)], "must be {'net': state dict}"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "must be {'net': state dict}"),
        ({1: torch.ones(2)}, "must be {'net': state dict}"),
        ({"a": RunConfig()}, "cannot be read"),
    ],
)
def test_a_file_without_weights_is_one_line(content, message, tmp_path):
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        initial.resolve(str(path))
    assert f"init file {path} " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_corrupt_byte_is_found(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"net.pt is broken: its part .* is corrupt"):
        initial.resolve(str(file))


def test_the_command_takes_a_file(file, tmp_path):
    found = initial.resolve(str(file))
    assert resolved([f"--init={file}", "--seed", "1"]) == [f"--init={found}", "--seed", "1"]
    assert resolved(["--init", str(file), "--init="]) == ["--init", found, "--init="]
    line = ("--width", WIDTH, "--epochs", "1", "--train-limit", "60", "--measure", "none")
    done = command("benchmark", "--init", "mine/net.pt", *line, *FLAGS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (fields,) = tmp_path.glob("runs/*/config.json")
    assert json.loads(fields.read_text())["init"] == found
    done = command("benchmark", "--init", "mine/no.pt", *line, *FLAGS, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: init file mine/no.pt does not exist\n")


def test_a_name_that_is_no_digest():
    with pytest.raises(UserError, match=r"^init must be a digest of 12 hex digits .*, got 'a.pt'"):
        RunConfig(init="a.pt")


def test_a_sweep_file_finds_weights_beside_it(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = file.parent / "grid.yaml"
    parameters = {"init": {"values": ["net.pt", ""]}, "measure": {"value": "none"}}
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    found = initial.resolve(str(file))
    assert [config.init for config in load_grid(path).configs] == [found, ""]
    assert initial.given() == {found: file.absolute()}


def test_filters_of_given_weights_differ_at_the_start_but_have_not_moved(file, tmp_path):
    measures = ["bn_scale", "loss_biased_init"]
    parameters = {"init": {"value": str(file)}, "measure": {"values": measures}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    grid = load_grid(path)
    assert [config.measure for config in grid.configs] == ["bn_scale"]
    assert [config.measure for config in grid.blind] == ["loss_biased_init"]


def test_plans_and_placement_need_no_weights_that_fit(file):
    """They use nets of other numbers of classes."""
    config = tiny_run(init=initial.resolve(str(file)), batch_size=4)
    assert seconds_per_image(config, TrainSize(60, 4), torch.device("cpu")) > 0
    try_out(config, torch.device("cpu"))


@pytest.mark.slow
def test_workers_have_the_weights(file, tmp_path):
    values = {
        "init": [str(file), ""], "measure": ["none"], "width": [WIDTH], "epochs": [1],
        "train_limit": [60], "probe_samples": [20], "batch_size": [20],
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    parameters = {name: {"values": value} for name, value in values.items()}
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    done = command("sweeps", "run", path, "--workers", "2", *FLAGS, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("runs/*/summary.json"))) == 2
