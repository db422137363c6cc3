"""Several measures of one source, and several sources, against the last of them."""

import json

import pandas as pd
import pytest

from analysis.compare import EVERYWHERE, compare
from analysis.several import compare_several, plot, write
from benchmark.errors import UserError
from tests.analysis.test_compare import simulated
from tests.analysis.test_report import command
from tests.support.simulate import World


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    worlds = [World(), World(accuracy={"loss": -0.05}), World(accuracy={"loss": -0.1})]
    return [
        simulated(folder / name, world, without)
        for name, world, without in zip("abc", worlds, ([], [("grasp", 0)], []), strict=True)
    ]


def test_each_source_has_the_numbers_of_a_comparison_with_the_last(folders):
    several = compare_several(folders)
    assert list(several.comparisons) == folders[:2]
    for source, found in several.comparisons.items():
        assert found.to_dict() == compare(source, folders[-1]).to_dict()
    table = several.table()
    loss = table[(table["measure"] == "loss") & (table["setting"] == EVERYWHERE)]
    assert loss["final_accuracy"].round(2).tolist() == [0.1, 0.05]


def test_measures_of_one_source_are_compared_with_the_last(folders):
    several = compare_several(folders[1:2], ["grasp", "loss", "magnitude"])
    rows = [
        (name, row.measure, row.pairs) for name, row in several.rows() if row.setting == EVERYWHERE
    ]
    assert rows == [("grasp", "grasp - magnitude", 4), ("loss", "loss - magnitude", 6)]
    # what is drawn are the seeds that all of them have
    seeds = several.values.groupby("name")["seed"].agg(sorted).to_dict()
    assert seeds == {name: [1, 2] for name in ("grasp", "loss", "magnitude")}
    means = several.values.groupby("name")["final_accuracy"].mean()
    assert means["loss"] - means["magnitude"] == pytest.approx(-0.05, abs=0.02)


def test_all_sources_and_measures_are_drawn(folders):
    axes = plot(compare_several(folders, ["loss", "grasp"])).axes
    assert len(axes) == 4
    assert [label.get_text() for label in axes[0].get_yticklabels()] == folders


def test_the_command_writes_page_figure_and_tables(folders, tmp_path, monkeypatch, capsys):
    measures = ["--measures", "grasp", "loss", "magnitude"]
    arguments = ["compare", folders[0], *measures, "--out", tmp_path]
    assert command(*arguments, monkeypatch=monkeypatch) == 0
    assert "Each minus magnitude" in capsys.readouterr().out
    content = json.loads((tmp_path / "compare.json").read_text())
    assert (content["measures"], content["difference"]) == (measures[1:], "minus magnitude")
    table = pd.read_csv(tmp_path / "compare.csv")
    assert set(table["compared"]) == {"grasp", "loss"}
    assert "data:image/webp" in (tmp_path / "compare.html").read_text()
    assert (tmp_path / "compare.png").exists()


def test_the_page_of_sources_names_them_all(folders, tmp_path):
    page = write(compare_several(folders), tmp_path).read_text()
    assert all(name in page for name in folders)


@pytest.mark.parametrize(
    ("sources", "measures", "said"),
    [
        ([0], [], "two sources, or one"),
        ([0], ["loss"], "two sources, or one"),
        ([0], ["loss", "loss"], "given once"),
        ([0, 1, 0], [], "given once"),
        ([0, 1, 2], ["taylor"], "has no finished run"),
    ],
)
def test_bad_input_is_one_line(folders, sources, measures, said):
    with pytest.raises(UserError, match=said):
        compare_several([folders[place] for place in sources], measures)
