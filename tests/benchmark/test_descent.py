"""The check of gradient flow on gradient descent: first-order errors, and the other law of training
mode."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import relu

from benchmark.cli import parse
from benchmark.data._batches import normalise
from benchmark.descent import COUNTS, FILE, SINGLE, Descent, execute
from benchmark.flow import measure_flow, with_statistics_of
from benchmark.training.descent import (
    Pieces,
    filter_products,
    follow,
    train_course,
    train_steps,
)
from benchmark.training.problem import Subset
from tests.conftest import tiny_images, tiny_net


@pytest.fixture(scope="module")
def seen():
    return Subset(*tiny_images(24))


@pytest.fixture(scope="module", params=["vgg13", "resnet20"])
def net(request, seen):
    return with_statistics_of(tiny_net(request.param), seen.images)


def slopes(followed):
    """Of the logarithm of each error against that of the step."""
    steps = np.log([result.time / result.steps for result in followed])
    return {
        name: np.polyfit(steps, np.log([result.error[name] for result in followed]), 1)[0]
        for name in followed[0].error
    }


def test_errors_are_proportional_to_the_step(seen):
    net = with_statistics_of(tiny_net("resnet20"), seen.images)
    _, followed = follow(net, seen, 5.0, [(1e-6, steps) for steps in (1, 2, 4)])
    assert {result.kinks for result in followed} == {0}
    assert set(slopes(followed)) == {"loss", "weight_norm_sq", "grad_norm_sq", "filter_norm_sq"}
    assert list(slopes(followed).values()) == pytest.approx([1] * 4, abs=0.05)
    assert max(followed[0].error.values()) < 1e-2
    assert followed[0].change["loss"] < 0


def test_kinks_spoil_the_gradient_norm_alone(net, seen):
    _, followed = follow(net, seen, 5.0, [(1e-4, steps) for steps in (1, 4)])
    found = slopes(followed)
    assert all(result.kinks > 0 for result in followed)
    assert all(result.error["grad_norm_sq"] > 0.5 for result in followed)
    assert found["weight_norm_sq"] == pytest.approx(1, abs=0.15)
    assert found["filter_norm_sq"] == pytest.approx(1, abs=0.15)
    assert followed[-1].error["loss"] < 0.01


def pieces_of(*values):
    x = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)
    with torch.no_grad(), Pieces() as pieces:
        torch.nn.ReLU(inplace=True)(x.clone())
        relu(x)
        torch.nn.MaxPool2d(2)(x)
    return pieces


def test_kinks_are_seen_in_modules_and_functions():
    start = pieces_of(-1.0, 0.0, 2.0, 1.0)
    assert start.differences(pieces_of(-2.0, 0.0, 1.5, 1.4)) == 0
    assert start.differences(pieces_of(1.0, 0.0, 2.0, -1.0)) == 4  # two inputs, two rectifiers
    assert start.differences(pieces_of(-1.0, 0.0, 2.0, 2.1)) == 1  # the pool
    assert start.differences(pieces_of(-1.0, 0.0, 2.0, 2.0 + 1e-15)) == 0


def test_following_leaves_the_net_as_it_is(net, seen):
    before = copy.deepcopy(net.state_dict())
    flow, _ = follow(net, seen, 5.0, [(1e-2, 2)])
    batch = normalise(seen.images), seen.labels
    train_steps(net, flow, batch, 5.0, [0.1])
    train_course(net, [batch], 5.0, 0.1, 1e-4)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_products_of_filters_add_up_to_those_of_the_convs(net, seen):
    flow = measure_flow(copy.deepcopy(net).double(), seen.images, seen.labels, 5.0)
    products = filter_products(net, flow.hg)
    assert len(products) == sum(net.plan.values())
    convs = sum(
        float((net.get_submodule(name).weight.detach() * flow.hg[f"{name}.weight"]).sum())
        for name in net.convs
    )
    assert float(products.sum()) == pytest.approx(convs)


def test_a_step_in_training_mode_adds_its_square(net, seen):
    flow, _ = follow(net, seen, 5.0, [])
    batch = normalise(seen.images), seen.labels
    trained, evaluated, steps = train_steps(net, flow, batch, 5.0, [1e-3, 1.0])
    assert trained < 1e-2 < evaluated
    for step in steps:
        assert step.change == pytest.approx(step.first_order + step.second_order, rel=1e-9)
    assert steps[1].change == pytest.approx(steps[1].second_order, rel=1e-2)
    assert steps[1].second_order == pytest.approx(1e6 * steps[0].second_order)
    assert abs(steps[0].evaluation_mode) > 3 * abs(steps[0].change)


def test_weight_decay_is_part_of_the_law(net, seen):
    batches = [(normalise(seen.images), seen.labels)] * 3
    decayed, free = (train_course(net, batches, 5.0, 0.01, decay) for decay in (0.5, 0.0))
    for course in (decayed, free):
        assert course.change == pytest.approx(course.law, rel=1e-2, abs=1e-4)
    assert decayed.change[-1] < 0 < free.change[-1]


def test_the_command_writes_its_record(tmp_path, capsys):
    fields = {"width": 0.0625, "epochs": 1, "train_limit": 60, "probe_samples": 10}
    execute(Descent(out=tmp_path / "new" / "folder", data=tmp_path, **fields))
    record = json.loads((tmp_path / "new" / "folder" / FILE).read_text())
    assert [row["steps"] for row in record["followed"]] == list(COUNTS)
    assert [row["time"] for row in record["single"]] == pytest.approx(SINGLE)
    assert record["config"]["train_limit"] == 60
    assert record["trained"]["epoch"] == 1
    filters = record["filters"]
    assert len({len(column) for column in filters.values()}) == 1
    assert set(filters["layer"]) == set(range(10))
    assert "of the loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [["--epochs=-1"], ["--time", "0"], ["--time", "inf"], ["--arch", "vgg14"]]
)
def test_bad_input(flags, tmp_path):
    with pytest.raises(ValueError, match=flags[0].removeprefix("--").partition("=")[0]):
        execute(parse(Descent, "descent", "", [*flags, f"--out={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()
