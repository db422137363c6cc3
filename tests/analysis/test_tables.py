"""The grid's coverage, and what the summary counts."""

import json

import pytest

from analysis.report.figures import FIGURES
from analysis.report.tables import coverage, densities, summary
from analysis.runs.load import load
from analysis.settings import completeness, named, settings_of
from tests.support import simulate


def test_coverage_counts_finished_and_expected_runs_per_cell(tmp_path):
    configs = simulate.grid(measures=["loss", "grasp"], archs=["vgg13", "resnet56"], timings=[0, 4])
    gone = [
        c
        for c in configs
        if c.measure == "grasp" and c.prune_epoch == 4 and (c.arch == "vgg13" or c.seed == 1)
    ]
    simulate.simulate(tmp_path, [config for config in configs if config not in gone])
    frames = load(str(tmp_path))
    table = coverage(named(frames), completeness(frames, configs))
    assert list(table.columns) == [
        "arch",
        "dataset",
        "timing",
        "rounds",
        "ratio",
        "loss",
        "grasp",
        "none",
    ]
    texts = {
        (row.arch, row.timing): [
            f"{cell.finished}/{cell.expected} {cell.state}" if cell.expected else "-"
            for cell in (row.loss, row.grasp, row.none)
        ]
        for row in table.itertuples()
    }
    assert texts == {
        ("resnet56", "at initialisation"): ["3/3 whole", "3/3 whole", "-"],
        ("resnet56", "after 4 epochs"): ["3/3 whole", "2/3 partial", "-"],
        ("resnet56", "never cut"): ["-", "-", "3/3 whole"],
        ("vgg13", "at initialisation"): ["3/3 whole", "3/3 whole", "-"],
        ("vgg13", "after 4 epochs"): ["3/3 whole", "0/3 absent", "-"],
        ("vgg13", "never cut"): ["-", "-", "3/3 whole"],
    }
    assert table["timing"].tolist()[2] == "never cut"


def test_dense_controls_of_other_fields_have_rows_of_their_own(tmp_path):
    for width in (0.25, 0.5):
        simulate.simulate(tmp_path, simulate.grid(measures=["loss"], width=width))
    frames = named(load(str(tmp_path)))
    dense = summary(frames).set_index("measure").loc["none"]
    assert dense["setting"].tolist() == ["never cut, width 0.25", "never cut, width 0.5"]
    assert dense["runs"].tolist() == [3, 3]
    alone = frames.only(frames.runs.loc[frames.runs["measure"] == "none", "run_id"])
    assert settings_of(alone.runs) == dense["setting"].tolist()
    assert [len(ax.lines) for ax in FIGURES["convergence"].draw(alone).axes if ax.get_title()] == [
        1,
        1,
    ]


def test_a_collapsed_run_is_counted_and_its_uncut_net_is_not(tmp_path):
    configs = simulate.grid(measures=["loss"], timings=[4], dense=False)
    simulate.simulate(tmp_path, configs)
    (whole,) = summary(named(load(str(tmp_path)))).itertuples()
    assert whole.macs < 1
    file = tmp_path / configs[0].run_id / "summary.json"
    document = json.loads(file.read_text())
    document |= {"outcome": "collapsed", "after": document["before"]}
    file.write_text(json.dumps(document))
    (row,) = summary(named(load(str(tmp_path)))).itertuples()
    assert (row.runs, row.diverged, row.collapsed) == (whole.runs, 0, 1)
    assert (row.params, row.macs) == pytest.approx((whole.params, whole.macs))


def test_a_table_without_rows_has_its_columns(tmp_path):
    simulate.simulate(tmp_path, simulate.grid(measures=[], seeds=[0]))
    table = densities(named(load(str(tmp_path))))
    assert table.empty
    assert list(table)[-4:] == ["density", "density_low", "density_high", "density_n"]
