"""The command writes a whole report, and one line for bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.report import build as report_module
from analysis.report.build import build
from analysis.runs.load import load
from benchmark import provenance
from tests.support import simulate
from tests.support.simulate import World

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("report")  # one process builds it


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    configs = simulate.grid(budget="macs")
    gone = [c for c in configs if (c.measure, c.seed) == ("random", 2)]
    simulate.simulate(
        folder / "runs", [c for c in configs if c not in gone], World(loss={"magnitude": -0.1})
    )
    build(str(folder / "runs"), folder / "out", configs)
    return folder / "out"


def command(*arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["analysis", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_claims_json_has_the_agreed_keys(report):
    content = json.loads((report / "claims.json").read_text())
    assert set(content) == {"claims", "provenance"}
    keys = {"id", "sentence", "statistic", "rule", "verdict", "effect", "interval", "n", "parts"}
    assert [claim["id"] for claim in content["claims"]] == ["C1", "C2", "C3", "C4", "C5"]
    for claim in content["claims"]:
        assert keys <= set(claim)
        assert len(claim["interval"]) == 2
        for part in claim["parts"]:
            assert {"arch", "dataset", "verdict", "effect", "interval", "n"} <= set(part)
    assert content["claims"][0]["parts"][0]["arch"] == "vgg13"
    assert content["claims"][0]["verdict"] == "inconclusive"  # three seeds
    assert content["provenance"]["runs"] == 31


def test_the_page_is_self_contained_and_links_to_what_exists(report):
    page = (report / "index.html").read_text()
    outside = re.sub(r'src="data:[^"]*"', "", page)
    assert not re.search(r"(src|href)=.(https?:)?//|@import|url\(['h]|fetch\(|<script src", outside)
    for link in re.findall(r'href="((?:figures|tables)/[^"]*)"', page):
        assert (report / link).exists(), link
    anchors = set(re.findall(r'id="([^"]*)"', page))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= anchors
    assert len(re.findall(r'<figure id="', page)) == page.count("data:image/webp") == 12
    assert page.index('id="verdicts"') < page.index('id="claims"') < page.index('id="figures"')


def test_the_page_says_what_is_missing(report):
    page = (report / "index.html").read_text()
    assert "2 of 33 expected runs are missing" in page
    missing = pd.read_csv(report / "tables" / "missing.csv")
    assert missing[["measure", "seed"]].values.tolist() == [["random", 2], ["random", 2]]


def test_tables_state_n_and_interval_beside_each_mean(report):
    summary = pd.read_csv(report / "tables" / "summary.csv")
    pruned = summary[summary["measure"] != "none"]
    assert (pruned["final_accuracy_low"] < pruned["final_accuracy"]).all()
    assert (pruned["final_accuracy"] < pruned["final_accuracy_high"]).all()
    assert set(zip(summary["measure"], summary["final_accuracy_n"], strict=True)) >= {
        ("random", 2),
        ("loss", 3),
    }
    assert set(pd.read_csv(report / "tables" / "densities.csv")["conv"]) == set(simulate.PLAN)
    assert len(pd.read_csv(report / "tables" / "runs.csv")) == 31


def test_figures_are_written_as_png_and_svg(report):
    stems = {path.stem for path in (report / "figures").glob("*.png")}
    assert stems == {path.stem for path in (report / "figures").glob("*.svg")}
    assert "convergence-vgg13-digits" in stems


@pytest.mark.slow
def test_figures_drawn_in_parallel_are_the_same(tmp_path, monkeypatch):
    configs = simulate.grid(measures=["grasp"], archs=["vgg13", "resnet56"], timings=[0])
    simulate.simulate(tmp_path / "runs", configs)
    pictures = []
    for runs, out in ((10_000, tmp_path / "serial"), (0, tmp_path / "parallel")):
        monkeypatch.setattr(report_module, "PARALLEL", runs)
        build(str(tmp_path / "runs"), out)
        pictures.append({path.name: path.read_bytes() for path in (out / "figures").iterdir()})
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 2


def test_the_command_prints_verdicts_and_ends_with_the_page(tmp_path, monkeypatch, capsys):
    simulate.simulate(
        tmp_path / "runs", simulate.grid(measures=["magnitude", "loss"], timings=[0], seeds=[0])
    )
    assert command(tmp_path / "runs", "--out", tmp_path / "out", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == f"report: {tmp_path / 'out' / 'index.html'}"
    assert sum("Not tested: it needs" in line for line in lines) == 5


def test_a_source_of_ablations_alone_has_a_report_that_decides_nothing(tmp_path):
    simulate.simulate(tmp_path / "runs", simulate.grid(dense=False, ablation="invert"))
    made = build(str(tmp_path / "runs"), tmp_path / "out")
    assert {item.verdict for item in made.judgements} == {"not tested"}
    assert pd.read_csv(tmp_path / "out" / "tables" / "summary.csv").empty
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "runs.csv")) == 30


@pytest.mark.slow
def test_a_group_that_has_only_begun_and_a_source_without_cuts_do_no_harm(tmp_path):
    simulate.simulate(tmp_path / "one", simulate.grid(timings=(4,)))
    simulate.simulate(
        tmp_path / "one", simulate.grid(archs=("resnet20",), timings=(4,)), finished=False
    )
    simulate.simulate(
        tmp_path / "two", simulate.grid(measures=(), archs=("resnet56",), timings=(4,))
    )
    build([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "out")
    figures = {path.name for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert any("vgg13" in name for name in figures)
    assert not any("resnet20" in name for name in figures)
    build(str(tmp_path / "two"), tmp_path / "out")
    assert not any("vgg13" in path.name for path in (tmp_path / "out" / "figures").iterdir())


def test_groups_whose_file_names_would_be_the_same_are_numbered():
    groups = [
        "vgg13 on digits",
        "vgg13 on folder:/a b",
        "vgg13 on folder:/a_b",
        "vgg13 on folder:/a.b",
    ]
    names = ["vgg13-digits", "vgg13-folder__a_b", "vgg13-folder__a_b~2", "vgg13-folder__a.b"]
    assert report_module.file_names(groups) == names


def test_the_commit_is_dirty_if_code_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    commit = provenance.commit.__wrapped__  # a process asks once
    assert commit() == ""
    files = [tmp_path / name for name in ("analysis/report.py", "results/claims.json")]
    for file in files:
        file.parent.mkdir()
        file.write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    files[1].write_text("2")
    assert commit() == clean
    files[0].write_text("2")
    assert commit() == f"{clean}-dirty"


def test_hours_count_a_shared_dense_phase_once(tmp_path):
    configs = simulate.grid(measures=("loss", "grasp"), timings=(4,), seeds=(0, 1))
    own = 6 * 0.5 + 0.1  # seconds of a run after its dense phase of 4 epochs, with its cut
    for dense, expected in ((True, 2 * 10 * 0.5 + 4 * own), (False, 2 * 4 * 0.5 + 4 * own)):
        folder = tmp_path / str(dense)
        simulate.simulate(
            folder, [config for config in configs if dense or config.measure != "none"]
        )
        assert report_module.training_seconds(load(str(folder))) == pytest.approx(expected)


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_runs_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, made):
    runs = tmp_path / "runs"
    if made:
        runs.mkdir()
    assert command(runs, "--out", tmp_path / "out", monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: runs folder")
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "out").exists()


def test_a_grid_without_runs_and_a_file_as_folder_are_one_line(tmp_path, monkeypatch, capsys):
    simulate.simulate(tmp_path / "runs", simulate.grid(measures=["loss"], seeds=[0]))
    (tmp_path / "grid.yaml").write_text("method: grid\nparameters: {measure: {value: grasp}}\n")
    arguments = (tmp_path / "runs", "--grid", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    assert command(*arguments, monkeypatch=monkeypatch) == 2
    assert "no finished run of the grid" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command(tmp_path / "runs", "--out", tmp_path / "file", monkeypatch=monkeypatch) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_parsing_needs_neither_pandas_nor_matplotlib_nor_torch():
    heavy = {"pandas", "matplotlib", "torch"}
    program = f"import analysis.__main__, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
    program = "import analysis.report.build, sweeps.grid, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
