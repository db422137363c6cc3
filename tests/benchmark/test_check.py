"""`flowprune check`: what it says of components that break a contract."""

import pytest
import torch

from benchmark import contracts, outside, registry
from benchmark.measures import MEASURES
from benchmark.registry import Measure
from tests.conftest import tiny_images, tiny_net
from tests.support.commands import command, refusal
from tests.support.components import COSINE, DATA


def made(function, **declared):
    needs = function.__code__.co_varnames[: function.__code__.co_argcount]
    fields = {"order": 0, "temperature": 5.0, "at_init": True} | declared
    return Measure(name="mine", needs=needs, function=function, **fields)


def faults(measure):
    net, (images, labels) = tiny_net("resnet20"), tiny_images(6)
    return contracts.scoring_faults([measure], net, images, labels)


def in_place(weight):
    return weight.mul_(2).norm(dim=1)


def without_gradient(net):
    return {
        name: net.model.get_submodule(name).weight.flatten(1).norm(dim=1)
        for name in net.model.convs
    }


def in_evaluation(net):
    net.model.eval()
    return {name: torch.arange(n).float() for name, n in net.model.plan.items()}


def with_gradients(net):
    net.model(torch.zeros(2, 3, 32, 32)).sum().backward()
    return {name: torch.arange(n).float() for name, n in net.model.plan.items()}


def of_one_conv(net):
    return {"conv1": torch.zeros(net.model.plan["conv1"])}


CALLS = []
WRONG = {
    "not finite": (lambda weight: weight[:, 0] / 0, "scores of mine are not finite: 8 of 8 in co"),
    "not repeatable": (
        lambda weight: CALLS.append(1) or weight.norm(dim=1) * len(CALLS),
        "scores of mine are not repeatable",
    ),
    "changes the net": (in_place, "changes the net: conv1.weight; work on a copy"),
    "random": (lambda weight: torch.rand(len(weight)), "changes the global random state"),
    "shape": (lambda weight: weight, "scores of measure mine for conv1 must be a tensor [8], got"),
    "no tensor": (lambda weight: 1.0, "for conv1 must be a tensor [8], got 'float'"),
    "keys": (of_one_conv, "scores of measure mine must be {conv: scores} with the convs conv1, l"),
    "no dictionary": (lambda net: None, "must be {conv: scores} with the convs"),
    "gradients": (without_gradient, "require gradients: return scores.detach()"),
    "mode": (in_evaluation, "leaves the net in evaluation mode"),
    "grad": (with_gradients, "leaves gradients in the net"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_measure_is_described(name):
    function, message = WRONG[name]
    assert any(message in fault for fault in faults(made(function))), faults(made(function))


def test_a_measure_that_spoils_the_gradient_of_others():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(4)
    spoiler = made(lambda gradient: gradient.mul_(2).norm(dim=1), temperature=1.0)
    assert contracts.spoils_others(spoiler, net, images, labels)
    assert not contracts.spoils_others(MEASURES["taylor"], net, images, labels)


def test_batch_sizes_and_initialisation():
    def per_batch(net):
        return {n: torch.full((k,), float(net.batch_size)) for n, k in net.model.plan.items()}

    found = list(contracts._more_faults(made(per_batch), "resnet20", 0.0625))
    assert found == [
        "scores depend on the batch size, which only bounds memory",
        "all filters score alike at initialisation: declare at_init=False",
    ]
    assert not list(contracts._more_faults(MEASURES["fisher"], "resnet20", 0.0625))
    assert not list(contracts._more_faults(MEASURES["bn_scale"], "resnet20", 0.0625))


NET = """
from torch import nn


class Two(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.two, self.norm2 = nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, num_classes)

    def forward(self, x):
        y = self.norm1(self.one(x)).relu()
        return self.linear(FORWARD)


build = Two
"""
RIGHT = "self.norm2(self.two(y)).relu().mean((2, 3))"


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (RIGHT, None),
        ("self.norm2(self.two(y + 1)).relu().mean((2, 3))", None),
        (f"({RIGHT})[:1]", "outputs must be logits [4, 10] of 4 images, got [1, 10]"),
        ("y.mean((2, 3))", "no gradient reaches two.weight: the output does not depend on it"),
        ("nothing", "Two cannot be traced (name 'nothing' is not defined)"),
        ("y.mean((2, 3)).flip(1)", "Two has no filters that can be removed: those of one are read"),
    ],
)
def test_architectures(folder, forward, message):
    (folder / "mine.py").write_text(NET.replace("FORWARD", forward))
    found = contracts.model_faults(registry.resolve("models", "mine.py"))
    assert found == [] if message is None else message in found[0]


def test_a_compact_net_with_other_outputs_is_a_fault(monkeypatch):
    monkeypatch.setattr(contracts, "compact", lambda net, keep: net)
    assert "has other outputs than the masked" in contracts.model_faults("resnet20")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("", ""), None),
        (('("a", "b")', '("a", "b", "c")'), "has no train image of class 'c'"),
        (("np.zeros((80", "np.random.randint(9, size=(80"), "is not repeatable"),
        (("labels[:60]", "labels[:50]"), "(train): labels must be int64 [60]"),
        (("len", "len"), None),
        (("int(path or 255)", "nothing"), "raises NameError"),
    ],
)
def test_data_sets(folder, change, message):
    (folder / "mine.py").write_text(
        DATA.replace(*change).replace(", dtype=np.uint8)", ").astype(np.uint8)")
    )
    found = contracts.data_faults(registry.resolve("data", "mine.py"), folder)
    assert found == [] if message is None else message in found[0]


def test_the_command(folder, monkeypatch):
    before = lambda: contracts.ARCHES.pop("vgg13") and contracts.ARCHES.pop("mobilenet_v1")  # noqa: E731
    good = command("benchmark.check", "my/cosine.py", cwd=folder, before=before)
    name = registry.resolve("measures", "my/cosine.py")
    assert (good.returncode, good.stdout) == (0, f"measure {name} is fine\n"), good.stderr
    text = COSINE.replace(" / weight.norm(dim=1)", " * float('nan')")
    (folder / "my" / "cosine.py").write_text(text)
    bad = command("benchmark.check", "my/cosine.py", cwd=folder, before=before)
    assert bad.returncode == 1
    assert "scores of cosine@" in bad.stdout
    assert "are not finite: 8 of 8 in conv1 (on resnet20)" in bad.stdout
    (folder / "my" / "cosine.py").write_text("x = 1")
    nothing = command("benchmark.check", "my/cosine.py", cwd=folder)
    assert refusal(nothing) == (
        "file my/cosine.py must declare a measure cosine, or build (an architecture), or load (a "
        "data set)"
    )
    assert outside.NOUNS["data"] in command("benchmark.check", "digits", cwd=folder).stdout
