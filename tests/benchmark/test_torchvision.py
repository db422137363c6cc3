"""Whole runs of nets that were not written for the suite: `torchvision:NAME`, and files with a net
of their own."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision

from benchmark import files, outside, registry
from benchmark.config import RunConfig
from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.measures import MEASURES
from benchmark.models import build
from benchmark.run import run
from sweeps.grid import load
from tests.benchmark.test_cli import FLAGS
from tests.benchmark.test_run import record_of, science
from tests.conftest import tiny_run
from tests.support.commands import command
from tests.support.disk import Disk, Stopped

SMALL = {"width": 1, "train_limit": 40, "batch_size": 20, "score_samples": 20, "test_limit": 20}
NET = """
import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        n = int(16 * width)
        self.a, self.b = nn.Conv2d(3, n, 3, stride=2), nn.Conv2d(n, 2 * n, 3, stride=2)
        self.c = nn.Conv2d(3 * n, 2 * n, 1)
        self.norm, self.drop = nn.BatchNorm2d(2 * n), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(2 * n, n), nn.Linear(n, num_classes)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x).relu()
        y = torch.cat([nn.functional.max_pool2d(x, 3, 2), y], 1)
        x = self.drop(self.norm(self.c(y)).relu().mean((2, 3)))
        return self.head(self.hidden(x).relu())


def build(num_classes, width=1.0):
    return Wide(num_classes, width)
"""


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """The name of an architecture with dropout, a concatenation, and convs with bias and without
    batch norm."""
    monkeypatch.setattr(outside, "_given", {})
    (tmp_path / "wide.py").write_text(NET)
    return registry.resolve("models", str(tmp_path / "wide.py"))


def interrupted(config, options, monkeypatch, operation):
    """The science of a run that is killed at this operation on its files, and continued."""
    there = dataclasses.replace(options, runs=options.runs / str(operation))
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", Disk(operation))
        with pytest.raises(Stopped):
            run(config, there)
    assert not record_of(config, there).finished
    torch.manual_seed(operation)  # another global random state
    run(config, there)
    return science(config, there)


@pytest.mark.parametrize(
    "fields",
    [
        {"measure": "loss_biased_init", "rounds": 2, "cut_momentum": "carry"},
        {"measure": "loss", "ablation": "reinit", "rounds": 2},
        {"measure": "grasp_t1", "budget": "macs", "prune_epoch": 1},
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(wide, options, monkeypatch, fields):
    config = tiny_run(arch=wide, **{**SMALL, "width": 0.5, **fields}, epochs=3)
    summary = run(config, options)
    assert summary["outcome"] == "finished"
    before, after = summary["plan"]["before"], summary["plan"]["after"]
    assert before == {"a": 8, "b": 16, "c": 16}
    assert sum(after.values()) < sum(before.values())
    for operation in (20, 45):
        assert interrupted(config, options, monkeypatch, operation) == science(config, options)


def test_measures_that_need_batch_norm(wide, options):
    config = tiny_run(arch=wide, **SMALL, epochs=2, prune_epoch=1)
    for measure in ("bn_scale", "fisher_bn", "taylor_gate"):
        wrong = dataclasses.replace(config, measure=measure)
        with pytest.raises(UserError, match=f"^{measure} needs a batch norm .* a of wide@.* none$"):
            run(wrong, options)
        assert not record_of(wrong, options).folder.exists()  # nothing has been trained
    run(config, dataclasses.replace(options, score_all=True))
    with np.load(record_of(config, options).scores_folder / "cut-01.npz") as scores:
        found = {key.partition("/")[0] for key in scores}
    left_out = {"bn_scale", "fisher_bn", "taylor_gate", "none", "oracle", "grad_accumulation"}
    assert found == set(MEASURES) - left_out
    probed = dataclasses.replace(config, measure="none", probe_epochs="1", prune_epoch=0)
    run(probed, options)
    rows, ranks = record_of(probed, options).probes()
    assert {row["measure"] for row in rows} == found
    assert ranks


def test_initial_weights_of_a_cut_net_with_a_concatenation(wide):
    from benchmark.pruning import shrink
    from benchmark.training.state import fresh, initial_weights

    config = tiny_run(arch=wide, width=1)
    state = fresh(config, 10, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        keep = {n: torch.rand(k, generator=draw) < 0.7 for n, k in state.model.plan.items()}
        shrunk = shrink(state.model, keep)
        state.model = shrunk.net
        state.origin = {s: state.origin[s][kept] for s, kept in shrunk.channels.items()}
    for name, weight in initial_weights(config, state).items():
        assert torch.equal(weight, state.model.get_submodule(name).weight), name


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_a_run_of_a_net_of_torchvision(arch, options, monkeypatch):
    config = tiny_run(arch=arch, **SMALL, measure="taylor", budget="params", epochs=2)
    summary = run(config, options)
    assert summary["outcome"] == "finished"
    whole = getattr(torchvision.models, arch.partition(":")[2])(num_classes=10)
    assert summary["before"]["net/params"] == sum(p.numel() for p in whole.parameters())
    assert summary["after"]["net/params"] <= summary["before"]["net/params"] / 2
    assert summary["before"]["net/macs"] == cost(build(arch), (32, 32))["net/macs"]
    assert interrupted(config, options, monkeypatch, 40) == science(config, options)


def test_a_net_of_torchvision_begins_with_torchvisions_weights():
    torch.manual_seed(3)
    net = build("torchvision:squeezenet1_1", num_classes=5)
    torch.manual_seed(3)
    theirs = torchvision.models.squeezenet1_1(num_classes=5)
    assert list(net.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(net.state_dict()[key], t) for key, t in theirs.state_dict().items())
    assert (net.arch, net.num_classes, net.image_size) == (net.arch, 5, (32, 32))
    plan = {name: max(1, filters // 2) for name, filters in net.plan.items()}
    torch.manual_seed(3)
    small = build("torchvision:squeezenet1_1", num_classes=5, plan=plan)
    assert small.plan == small.original == plan
    corner = net.features[0].weight[:32]
    assert torch.equal(small.features[0].weight, corner)
    assert build("torchvision:alexnet").image_size == (224, 224)


def test_a_file_declares_the_size_of_its_images(wide, tmp_path):
    assert build(wide).image_size == (32, 32)
    (tmp_path / "large.py").write_text(NET + "\nIMAGE_SIZE = (64, 48)\n")
    large = build(registry.resolve("models", str(tmp_path / "large.py")))
    assert large.image_size == (64, 48)
    assert cost(large) == cost(build(wide), (64, 48)) != cost(build(wide))


WRONG = {
    "an unknown name": (
        {"arch": "torchvision:resnet19"},
        "arch must be torchvision:NAME with a net of torchvision.models, as torchvision:resnet18, "
        "got 'torchvision:resnet19'",
    ),
    "no name": ({"arch": "torchvision"}, "torchvision:NAME, or a file .py, got 'torchvision'"),
    "a width": (
        {"arch": "torchvision:squeezenet1_1", "width": 0.5},
        "width of torchvision:squeezenet1_1 must be 1, because its build takes no width, got 0.5",
    ),
    "the authors' rules": (
        {"arch": "torchvision:resnet18", "protocol": "paper"},
        "protocol with arch=torchvision:resnet18 must be exact, got 'paper'",
    ),
    "too small images": (
        {"arch": "torchvision:alexnet"},
        "torchvision:alexnet cannot be trained on images of 32x32 in a batch of 2",
    ),
    "a net of attention": (
        {"arch": "torchvision:vit_b_32"},
        "VisionTransformer has no filters that can be removed: those of conv_proj are read by",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_run_is_one_line(what, options):
    fields, message = WRONG[what]
    with pytest.raises(UserError) as error:
        run(RunConfig(**fields), options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sweep_refuses_the_authors_rules_for_other_nets(tmp_path):
    grid = tmp_path / "grid.yaml"
    lines = ("protocol: {values: [exact, paper]}", "arch: {value: 'torchvision:squeezenet1_1'}")
    grid.write_text("method: grid\nparameters:\n  " + "\n  ".join(lines) + "\n")
    with pytest.raises(UserError, match="protocol with arch=torchvision"):
        load(grid)
    grid.write_text(grid.read_text().replace(", paper", ""))
    assert [c.arch for c in load(grid).configs] == ["torchvision:squeezenet1_1"]


@pytest.mark.slow
def test_the_commands(tmp_path):
    flags = [flag for flag in FLAGS if not flag.startswith("--width")]
    named = ["--arch", "torchvision:squeezenet1_1", "--device", "cpu", "--wandb", "disabled"]
    done = command("benchmark", *flags, *named, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checked = command("benchmark.check", "torchvision:squeezenet1_1", cwd=tmp_path)
    assert checked.stdout == "arch torchvision:squeezenet1_1 is fine\n", checked.stderr
