"""Two sources side by side: pairs, planted differences, what only one has, and the command."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.compare import EVERYWHERE, compare, show, write
from analysis.outcomes import outcomes
from analysis.runs.load import load
from benchmark.errors import UserError
from benchmark.registry import resolve
from tests.analysis.test_report import command
from tests.support import simulate
from tests.support.simulate import World

EARLY, LATE = "vgg13 on digits, cut at initialisation", "vgg13 on digits, cut after 4 epochs"
MEASURES = ("magnitude", "loss", "grasp")


def simulated(folder, world=None, without=(), **grid):
    """A runs folder; `without`: the (measure, seed) that it lacks."""
    configs = simulate.grid(**{"measures": MEASURES, **grid})
    simulate.simulate(
        folder,
        [config for config in configs if (config.measure, config.seed) not in without],
        world,
    )
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    world = World(
        loss={"loss": 0.1}, accuracy={"loss": -0.05}, growth={"loss": 0.5}, diverged=("grasp",)
    )
    a, b = (
        simulated(folder / "a", without=[("magnitude", 0)]),
        simulated(folder / "b", world, [("magnitude", 2)]),
    )
    return a, b


@pytest.fixture(scope="module")
def comparison(folders):
    return compare(*folders)


def row(comparison, setting, measure):
    (found,) = (row for row in comparison.rows if (row.setting, row.measure) == (setting, measure))
    return found


@pytest.mark.parametrize("setting", [EVERYWHERE, EARLY, LATE])
def test_planted_differences_are_found_as_a_minus_b(comparison, setting):
    found = row(comparison, setting, "loss")
    assert (found.pairs, found.identical, found.outcomes) == (
        6 if setting == EVERYWHERE else 3,
        0,
        "",
    )
    wanted = {"final_accuracy": 0.05, "loss_after_cut": -0.1, "grad_norm_change": -0.5}
    for name, effect in wanted.items():
        item = found.differences[name]
        assert item.effect == pytest.approx(effect, abs=0.01)
        assert item.interval[0] - 1e-9 <= effect <= item.interval[1] + 1e-9
        assert (item.n, item.differs) == (found.pairs, True)


def test_a_file_of_a_measure_is_compared(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("text")
    name = resolve("measures", str(file))
    runs = simulated(tmp_path / "runs", measures=("loss", name))
    for text, label in {f"loss={file}": f"loss - {name}", str(file): name}.items():
        assert {row.measure for row in compare(runs, runs, [text]).rows} == {label}


def test_identical_runs_differ_by_exactly_0_and_are_said_to_be_identical(folders):
    for found in compare(folders[0], folders[0]).rows:
        assert found.identical == found.pairs > 0
        assert {item.effect for item in found.differences.values()} <= {0, None}
        assert not any(item.differs for item in found.differences.values())
        assert found.differences["final_accuracy"].effect == 0


def test_runs_that_only_one_source_has_are_listed(comparison):
    only = comparison.only
    assert list(zip(only["source"], only["measure"], only["seed"], strict=True)) == [
        ("A", "magnitude", 2), ("A", "magnitude", 2), ("B", "magnitude", 0), ("B", "magnitude", 0),
    ]  # fmt: skip
    assert set(only["setting"]) == {EARLY, LATE}


def test_one_pair_gives_a_difference_without_an_interval(comparison):
    item = row(comparison, EARLY, "magnitude").differences["final_accuracy"]
    assert (item.effect, item.interval, item.n) == (0, None, 1)


def test_runs_that_did_not_finish_on_both_sides_have_no_accuracy_and_are_counted(comparison):
    found = row(comparison, EARLY, "grasp")
    assert found.outcomes == "3 finished in A, diverged in B"
    assert (found.differences["final_accuracy"].effect, found.differences["final_accuracy"].n) == (
        None,
        0,
    )
    assert found.differences["grad_norm_change"].n == 3


def test_a_measure_given_twice_is_refused():
    with pytest.raises(UserError, match="measures must be given once, got 'loss'"):
        compare("a", "b", measures=["loss=grasp", "loss=magnitude"])


def test_the_dense_control_is_compared_once(comparison):
    assert row(comparison, "vgg13 on digits, never cut", "none").pairs == 3


def test_a_measure_of_a_against_another_of_b(tmp_path):
    a = simulated(
        tmp_path / "a", World(accuracy={"loss": -0.04}, noise=1e-4), measures=["loss"], dense=False
    )
    b = simulated(tmp_path / "b", World(noise=1e-4), measures=["taylor", "magnitude"], dense=False)
    with pytest.raises(
        UserError, match=r"nothing to compare: .*\(loss\).*\(magnitude, taylor\).*--measures"
    ):
        compare(a, b)
    comparison = compare(a, b, ["loss=taylor"])
    found = row(comparison, EVERYWHERE, "loss - taylor")
    assert found.pairs == 6
    assert found.differences["final_accuracy"].effect == pytest.approx(-0.04, abs=1e-3)
    assert comparison.only.empty


def test_settings_are_never_mixed(tmp_path):
    a = simulated(tmp_path / "a", measures=["loss"], ratio=0.5)
    b = simulated(tmp_path / "b", measures=["loss"], ratio=0.75)
    comparison = compare(a, b)
    assert {row.measure for row in comparison.rows} == {"none"}  # the dense control has no ratio
    assert set(comparison.only["measure"]) == {"loss"}
    assert comparison.only["setting"].str.contains("ratio").all()


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        (
            ["magntude"],
            "measure 'magntude' has no finished run in .*a, which has magnitude, loss, grasp, none",
        ),
        (["loss=l1"], "measure 'l1' has no finished run in .*b"),
        (["loss="], "--measures 'loss=' must be"),
        (["=loss"], "--measures '=loss' must be"),
    ],
)
def test_bad_measures_are_one_line(folders, measures, message):
    with pytest.raises(UserError, match=message):
        compare(*folders, measures)


def test_the_command_prints_and_writes_the_same_numbers(
    folders, tmp_path, monkeypatch, capsys, comparison
):
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    assert command("compare", *folders, "--out", out, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "+5 pp" in printed
    assert "only in B: 2 finished runs (2 magnitude)" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.csv",
        "compare.html",
        "compare.json",
    ]
    table = pd.read_csv(out / "compare.csv", keep_default_na=False, na_values=[""])
    content = json.loads((out / "compare.json").read_text())
    assert len(table) == len(content["rows"]) == len(comparison.rows)
    for line, entry, found in zip(
        table.to_dict("records"), content["rows"], comparison.rows, strict=True
    ):
        assert line["measure"] == entry["measure"] == found.measure
        effect = found.differences["final_accuracy"].effect
        assert entry["differences"]["final_accuracy"]["effect"] == effect
        assert line["final_accuracy"] == pytest.approx(
            np.nan if effect is None else effect, nan_ok=True
        )
    page = (out / "compare.html").read_text()
    assert "<b>+5 pp" in page
    assert "3 finished in A, diverged in B" in page


def test_bad_input_of_the_command_is_one_line_and_status_2(folders, tmp_path, monkeypatch, capsys):
    assert command("compare", folders[0], tmp_path / "nothing", monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: runs folder")
    assert printed.err.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert command("compare", *folders, "--out", tmp_path / "file", monkeypatch=monkeypatch) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_many_settings_are_printed_as_one_table(tmp_path, monkeypatch, capsys):
    a = simulated(tmp_path / "a", measures=["loss"], timings=range(9), dense=False, seeds=[0, 1])
    assert command("compare", a, a, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "each of the 9 settings alone" in printed
    assert "cut after 4 epochs" not in printed


def test_runs_are_compared_across_a_field(tmp_path):
    rules = {"protocol": ["exact", "paper"]}
    configs = [
        config
        for value in rules["protocol"]
        for config in simulate.grid(measures=MEASURES, protocol=value)
    ]
    worse = World(accuracy=dict.fromkeys(MEASURES, -0.1))
    simulate.simulate(tmp_path, [config for config in configs if config.protocol == "exact"])
    simulate.simulate(tmp_path, [config for config in configs if config.protocol == "paper"], worse)
    comparison = compare(
        str(tmp_path), str(tmp_path), fields=["protocol=paper=exact", "score_bn=running=fresh"]
    )
    sides = ("protocol paper, score_bn running", "protocol exact, score_bn fresh")
    assert comparison.names == tuple(f"{tmp_path}, {side}" for side in sides)
    found = row(comparison, EVERYWHERE, "loss")
    assert (found.pairs, found.identical) == (6, 0)
    assert {row.setting for row in comparison.rows} == {EVERYWHERE, EARLY, LATE}
    assert found.differences["final_accuracy"].effect == pytest.approx(-0.1, abs=0.02)
    assert not (comparison.only["measure"] != "none").any()


def test_runs_after_training_are_compared_with_earlier_ones(tmp_path):
    configs = simulate.grid(measures=["loss"], timings=[0, 4, "trained"])
    simulate.simulate(tmp_path, configs)
    comparison = compare(str(tmp_path), str(tmp_path), fields=["prune_epoch=4=trained"])
    (found,) = (row for row in comparison.rows if row.measure == "loss")
    assert (found.setting, found.pairs) == ("vgg13 on digits, cut after training", 3)
    left, right = (
        outcomes(load(str(tmp_path))).query(f"prune_epoch == {epoch} and measure == 'loss'")
        for epoch in (4, 10)
    )
    effect = left["final_accuracy"].mean() - right["final_accuracy"].mean()
    assert found.differences["final_accuracy"].effect == pytest.approx(effect)


def test_runs_that_differ_in_retrain_alone_are_told_apart_by_it(tmp_path):
    restarted = simulate.grid(measures=["loss"], timings=[4, "trained"], dense=False)
    more = [replace(c, retrain="restart") for c in restarted if c.prune_epoch == 4]
    simulate.simulate(tmp_path, [*restarted, *more])
    fields = ["prune_epoch=trained=4"]
    with pytest.raises(UserError, match="add retrain=X=Y"):
        compare(str(tmp_path), str(tmp_path), fields=fields)
    fields.append("retrain=restart=budget")
    (found,) = compare(str(tmp_path), str(tmp_path), fields=fields).rows
    assert found.pairs == 3


def test_any_name_of_a_folder_is_printed_and_written(tmp_path, capsys):
    """Brackets are no markup, and what is no UTF-8 is escaped."""
    small = {"measures": ["loss"], "timings": [4], "seeds": [0, 1]}
    a = simulated(tmp_path / "runs[" / "v1]", **small)
    show(compare(a, a))
    assert f"B: {a}" in capsys.readouterr().out.replace("\n", "").replace("B:  ", "B: ")
    odd = simulated(Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff")), **small)
    assert "odd\\udcff" in write(compare(odd, odd), tmp_path / "out").read_text()


@pytest.mark.parametrize(("measures", "sign"), [("loss=none", 1), ("none=loss", -1)])
def test_a_measure_against_the_dense_control_of_each_run(tmp_path, measures, sign):
    a = simulated(
        tmp_path / "a",
        World(accuracy={"loss": -0.2}, noise=1e-4),
        measures=["loss"],
        ratio=0.5,
        width=0.25,
    )
    comparison = compare(a, a, [measures])
    assert {row.pairs for row in comparison.rows if row.setting != EVERYWHERE} == {3}
    assert {row.setting for row in comparison.rows} == {EVERYWHERE, EARLY, LATE}
    found = row(comparison, EVERYWHERE, measures.replace("=", " - "))
    assert found.pairs == 6
    assert found.differences["final_accuracy"].effect == pytest.approx(-0.2 * sign, abs=1e-3)
    assert comparison.only.empty


def test_settings_that_share_their_controls_are_no_further_evidence(tmp_path):
    """Luck of three controls, the same in six settings: the interval is that of three numbers."""
    source = simulated(tmp_path, World(noise=1e-4), measures=["loss"], timings=range(6))
    for seed, luck in enumerate((-0.1, 0.0, 0.1)):
        (control,) = (
            config
            for config in simulate.grid(measures=["loss"])
            if (config.measure, config.seed) == ("none", seed)
        )
        file = tmp_path / control.run_id / "history.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps(row | {"test/accuracy": 0.5 + luck}) + "\n" for row in rows)
        )
    comparison = compare(source, source, ["loss=none"])
    whole, *settings = (row.differences["final_accuracy"] for row in comparison.rows)
    assert (whole.n, len(settings)) == (3, 6)
    widths = [high - low for low, high in (item.interval for item in (whole, *settings))]
    assert widths[0] == pytest.approx(np.mean(widths[1:]), rel=0.1)


def test_every_pair_of_measures_is_compared_whatever_the_order(tmp_path):
    source = simulated(tmp_path)
    for measures in (
        ["magnitude=none", "none"],
        ["none", "magnitude=none"],
        ["none=magnitude", "loss=magnitude"],
    ):
        comparison = compare(source, source, measures)
        counts = {row.measure: row.pairs for row in comparison.rows}
        names = {text if "=" not in text else text.replace("=", " - ") for text in measures}
        assert set(counts) == names
        assert comparison.only["measure"].isin(["none"]).all() or comparison.only.empty


def test_controls_serve_runs_that_are_chosen_by_a_field_of_cuts(tmp_path):
    source = simulated(tmp_path, timings=[4, "trained"])
    comparison = compare(source, source, ["loss=none"], ["prune_epoch=trained=trained"])
    (row,) = comparison.rows
    assert (row.measure, row.pairs) == ("loss - none", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("protocol=paper", "fields must be FIELD=X=Y, got 'protocol=paper'"),
        ("seed=0=1", "fields must be FIELD=X=Y with a field among "),
        ("rounds=1=many", "rounds must be a whole number, got 'many'"),
        ("protocol=papr=exact", "protocol must be one of exact, paper, got 'papr'"),
        ("ablation=none=invert", "has no finished run with ablation invert"),
    ],
)
def test_a_field_that_cannot_be_compared_is_one_line(folders, text, said):
    with pytest.raises(UserError) as raised:
        compare(*folders, fields=[text])
    assert said in str(raised.value)
