"""The committed grids hold what they say, and a plan needs no data."""

from dataclasses import replace

import pytest
import torch

from benchmark import data
from benchmark.config import RunConfig
from benchmark.cost import dense_cost
from benchmark.measures import MEASURES, score
from benchmark.models import build
from benchmark.options import Options
from benchmark.schedule import schedule
from benchmark.training.state import initial_net, prepared
from sweeps import estimate
from sweeps import grid as grids
from sweeps.estimate import to_train, train_size
from tests.benchmark.test_data import write_folder
from tests.conftest import tiny_images
from tests.support.commands import command
from tests.sweeps.test_sweeps import SWEEPS, write

PAPER = {name for name, measure in MEASURES.items() if measure.paper}
"""The measures of the paper."""
CONTROLS = {"none", "random", "grasp_t1"}
OTHER_SEEDS = {
    "evidence-probes-more": {5, 6, 7, 8, 9},
    "evidence-probes-more-resnet20": {5, 6, 7, 8, 9},
}
"""Seeds of grids that go on where others end."""
FEWER = {"ablations": 3}
"""Seeds of grids that have fewer than five."""


@pytest.fixture(scope="module")
def paper():
    return grids.load(SWEEPS / "paper.yaml")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_grids_load(path):
    grid = grids.load(path)
    assert len({config.run_id for config in grid.configs}) == len(grid.configs) > 0
    seeds = {config.seed for config in grid.configs}
    assert seeds == OTHER_SEEDS.get(path.stem, set(range(len(seeds))))
    assert len(seeds) >= FEWER.get(path.stem, 5)


def test_the_demo_has_what_the_claims_need():
    grid = grids.load(SWEEPS / "demo.yaml")
    assert len(grid.configs) == 35
    assert {c.measure for c in grid.configs} == PAPER - {"loss_biased"} | CONTROLS
    assert {c.budget for c in grid.configs if c.measure != "none"} == {"macs"}
    assert {c.probe_epochs for c in grid.configs if c.measure == "none"} == {"1,2"}


def test_the_paper_grid_is_full(paper):
    tasks = 2 * 2 * 5  # architectures, data sets, seeds
    assert {config.measure for config in paper.configs} == PAPER | CONTROLS
    assert paper.points == tasks * 8 * 2 * 4 * 3
    pruned = 7 * 2 * 3  # measures, budgets, rounds
    assert len(paper.configs) == tasks * (4 * pruned + 1)
    assert paper.epochs() == tasks * 160 * (5 * pruned + 1)  # a trained net goes on for 160 more
    alone = pruned * (1 + 40 + 160) + 160
    assert paper.shared_epochs() == tasks * (alone - 160)
    assert not paper.blind


def test_the_control_of_layers_has_a_partner_for_each_of_its_runs(paper):
    layers = grids.load(SWEEPS / "paper-layers.yaml").configs
    partners = {replace(c, measure="magnitude", allocation="global") for c in layers}
    assert partners <= set(paper.configs)
    assert len(partners) == len(layers)


def test_cuts_at_initialisation_by_measures_that_are_blind_there_are_left_out(tmp_path):
    fields = {
        "measure": {"values": ["bn_scale", "loss_biased_init", "loss"]},
        "epochs": {"value": 3},
    }
    grid = grids.load(write(tmp_path / "g.yaml", prune_epoch={"values": [0, 1]}, **fields))
    assert {(config.measure, config.prune_epoch) for config in grid.blind} == {
        ("bn_scale", 0),
        ("loss_biased_init", 0),
    }
    assert not set(grid.blind) & set(grid.configs)


def test_trained_restarts_after_all_epochs(paper):
    run = next(
        config for config in paper.configs if config.prune_epoch == 160 and config.rounds == 5
    )
    assert run.retrain == "restart"
    assert (schedule(run).dense, schedule(run).cuts, schedule(run).total) == (
        160,
        tuple(range(160, 165)),
        320,
    )


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"none"}))
def test_a_measure_says_whether_it_tells_filters_apart_at_initialisation(measure, monkeypatch):
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 5)
    net = initial_net(RunConfig(arch="resnet20", width=0.0625), 10)
    initial = {name: net.get_submodule(name).weight.detach().clone() for name in net.convs}
    images, labels = tiny_images(6)
    scores = score(
        net, measure, images, labels, initial=initial, generator=torch.Generator().manual_seed(0)
    )
    assert MEASURES[measure].at_init == (len(torch.cat(list(scores.values())).unique()) > 1)


def test_equal_points_are_one_run_and_the_dense_phase_is_counted_once(tmp_path):
    fields = {
        "measure": {"values": ["none", "loss"]},
        "prune_epoch": {"values": [0, 1]},
        "seed": {"values": [0, 1]},
    }
    grid = grids.load(write(tmp_path / "g.yaml", **fields))
    assert (grid.points, len(grid.configs)) == (8, 6)
    assert grid.epochs() == 12
    assert (
        grid.shared_epochs() == 2
    )  # per seed: the dense control's two epochs hold the other run's one
    assert list(grid.epochs_to_train.values()) == [5, 5]
    assert all(control.measure == "none" for control in grid.epochs_to_train)


def test_sizes_of_a_folder_are_counted(tmp_path):
    assert train_size(f"folder:{write_folder(tmp_path, (64, 48))}", "unused") == (6, 2, 48, 64)


def test_declared_sizes_are_those_of_the_data():
    images = data.load("digits", "unused")
    assert train_size("digits", "unused") == (len(images.train_labels), len(images.classes), 32, 32)
    assert train_size("cifar10", "nowhere") == (50_000, 10, 32, 32)
    assert train_size("cifar100", "nowhere") == (50_000, 100, 32, 32)


def test_the_estimate_is_proportional_to_epochs_and_images(monkeypatch):
    from sweeps import estimate

    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 0.5)
    run, small = (
        RunConfig(measure="none", dataset="cifar10", train_limit=limit) for limit in (0, 100)
    )
    images = 2 * 50_000 + 3 * 100
    seconds, operations = to_train({run: 2, small: 3}, Options())
    net = build(run.arch, num_classes=10, width=run.width)
    assert (seconds, operations) == (images * 0.5, 6 * images * dense_cost(net)["macs"])


def test_plan_of_images_that_a_net_cannot_take(tmp_path):
    dataset = f"folder:{write_folder(tmp_path / 'small', (16, 16))}"
    path = write(tmp_path / "g.yaml", arch={"value": "vgg13"}, dataset={"value": dataset})
    result = command("sweeps", "plan", path, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "estimate: none (vgg13 cannot be trained on images of 16x16" in result.stdout


def test_plan_needs_no_data(tmp_path):
    narrow = {
        "width": {"value": 0.0625},
        "prune_epoch": {"values": [0, "trained"]},
        "epochs": {"value": 2},
    }
    names = {
        "measure": {"values": ["loss", "bn_scale"]},
        "dataset": {"values": ["cifar10", "cifar100"]},
    }
    path = write(tmp_path / "g.yaml", **narrow, **names)
    result = command(
        "sweeps",
        "plan",
        path,
        "--runs",
        tmp_path / "runs",
        "--data",
        tmp_path / "nowhere",
        "--device",
        "cpu",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "g: 6 runs in 6 cells (8 grid points)"
    assert (
        lines[1]
        == "left out: 2 runs cut at initialisation, where all filters score alike, by bn_scale"
    )
    assert lines[3] == "epochs: 20 if each run trained alone; the shared dense phase saves 4"
    assert lines[4].startswith("estimate: less than a minute with ")
    assert not (tmp_path / "runs").exists()


def test_plan_without_a_folder_of_images_has_no_estimate(tmp_path):
    path = write(tmp_path / "g.yaml", dataset={"value": f"folder:{tmp_path / 'nowhere'}"})
    result = command("sweeps", "plan", path, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("estimate: none (data folder ")


def test_a_grid_of_cells_without_meaning_alone_is_refused(tmp_path):
    path = write(tmp_path / "g.yaml", measure={"values": ["bn_scale", "loss_biased_init"]})
    with pytest.raises(
        grids.UserError, match="no run is left; bn_scale, loss_biased_init cannot cut at epoch 0"
    ):
        grids.load(path)


def test_settings_are_options_of_all_runs(tmp_path):
    grid = grids.load(
        write(tmp_path / "g.yaml", flow_every={"value": 2}, score_all={"value": True})
    )
    assert grid.options(Options()) == Options(flow_every=2, score_all=True)


@pytest.mark.parametrize(("batch_size", "seconds"), [(100, 10.1), (16, 1.7), (2, 0.3)])
def test_the_time_of_a_batch_follows_from_two_small_steps(monkeypatch, batch_size, seconds):
    """0.1 s per step and 0.1 s per image, after a slow first step."""
    clock = iter([0, 9, 10, 10.3, 20, 21.7])
    monkeypatch.setattr(estimate, "now", lambda device: next(clock))
    config = RunConfig(width=0.0625, batch_size=batch_size)
    per_image = estimate.seconds_per_image(
        config, estimate.TrainSize(1000, 10), torch.device("cpu")
    )
    assert per_image * batch_size == pytest.approx(seconds)


def test_a_gpu_is_timed_by_steps_as_a_run_takes_them(monkeypatch):
    """2 s for 50 steps of 8 images, after steps that are not timed; here on a CPU."""
    clock, device = iter([10, 12]), torch.device("cpu")
    monkeypatch.setattr(estimate, "now", lambda device: next(clock))
    config = RunConfig(width=0.0625, batch_size=8)
    net, size = prepared(initial_net(config, 10), device), estimate.TrainSize(1000, 10)
    before = [p.detach().clone() for p in net.parameters()]
    per_image = estimate.seconds_of_steps(net, config, size, device)
    assert per_image * 8 * estimate.REPLAYED == pytest.approx(2)
    assert not all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
