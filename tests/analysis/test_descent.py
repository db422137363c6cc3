"""The figures of a check of gradient flow, from its file."""

import json

import numpy as np
import pytest
from matplotlib.colors import same_color
from PIL import Image

from analysis.__main__ import Descent, execute_descent
from analysis.report.figures.descent import QUANTITIES, errors, filters, training_mode
from benchmark.cli import parse
from benchmark.files import write_json


def row(time, steps, kinks):
    error = dict.fromkeys(QUANTITIES, time / steps) | {"grad_norm_sq": 0.9 if kinks else 0.1}
    return {"time": time, "steps": steps, "kinks": kinks, "error": error}


@pytest.fixture
def record():
    first = np.linspace(-1e-2, 2e-2, 12)
    flat = np.tile([1.0, -1.0], 2)
    return {
        "config": {
            "arch": "vgg13", "width": 0.125, "dataset": "digits", "epochs": 5, "seed": 0,
            "probe_samples": 128,
        },
        "followed": [row(1e-3, steps, 7) for steps in (1, 2, 4, 8)],
        "single": [row(10.0**power, 1, kinks) for power, kinks in ((-8, 0), (-4, 3), (-2, 99))],
        "training_mode": {
            "cosine": {"training": 1e-4, "evaluation": 0.7},
            "steps": [
                {"step": h, "change": h**2, "first_order": 0.0, "second_order": h**2,
                 "evaluation_mode": -h}
                for h in (1e-3, 1e-2)
            ],
            "lr": 0.1,
            "courses": [
                {"weight_decay": decay, "change": [1.0, 2.0], "law": [1.0, 2.0]}
                for decay in (0.0, 1e-4)
            ],
        },
        "filters": {
            "layer": [0] * 4 + [1] * 8,
            "conv": ["conv1"] * 4 + ["conv2"] * 8,
            "prunable": [False] * 4 + [True] * 8,
            "theta_g": first.tolist(),
            "theta_hg": [*flat.tolist(), *(first[4:] ** 3).tolist()],
        },
    }  # fmt: skip


def test_files_and_captions_are_written(record, tmp_path, capsys):
    write_json(tmp_path / "descent.json", record)
    line = [str(tmp_path / "descent.json"), "--out", str(tmp_path / "new" / "out")]
    execute_descent(parse(Descent, "descent", "", line))
    text = (tmp_path / "new" / "out" / "descent.md").read_text()
    for name in ("descent_errors", "descent_training_mode", "descent_filters"):
        assert f"]({name}.png)" in text
        assert (tmp_path / "new" / "out" / f"{name}.svg").stat().st_size > 1000
        with Image.open(tmp_path / "new" / "out" / f"{name}.png") as image:
            assert image.width > 500
    assert "vgg13 at width 0.125 on digits, after 5 epochs" in text
    assert capsys.readouterr().out.count(".png: ") == 3


def test_errors_are_open_where_something_changed_sides(record):
    sheet = errors(record)
    axes = sheet.canvas.axes
    assert [ax.get_title() for ax in axes] == ["over the time 0.001", "one step"]
    color = QUANTITIES["loss"][1]
    marked = [
        line for line in axes[1].lines
        if same_color(line.get_color(), color) and line.get_marker() not in ("", "None")
    ]  # fmt: skip
    faces = {line.get_markerfacecolor(): line.get_xdata().tolist() for line in marked}
    assert faces == {color: [1e-8], "white": [1e-4, 1e-2]}
    (reference,) = [line for line in axes[1].lines if line.get_linestyle() == "--"]
    x, y = np.log(reference.get_xdata()), np.log(reference.get_ydata())
    assert np.diff(y) / np.diff(x) == pytest.approx([1])
    assert "(left: 7 of them)" in sheet.caption
    assert "misses the change of |g|² by 0.9 times its size" in sheet.caption
    for some in record["followed"] + record["single"]:
        some["kinks"] = 0
    assert "Nothing did here." in errors(record).caption


def test_training_mode_is_shown_beside_evaluation_mode(record):
    sheet = training_mode(record)
    left, right = sheet.canvas.axes
    square, flow, measured = left.lines
    assert measured.get_ydata().tolist() == square.get_ydata().tolist() == [1e-6, 1e-4]
    assert flow.get_ydata().tolist() == [1e-3, 1e-2]
    assert [t.get_text() for t in right.get_legend().texts] == [
        "weight decay 0", "weight decay 0.0001",
    ]  # fmt: skip
    assert "1.0e-04" in sheet.caption


def test_the_rank_correlation_is_that_of_prunable_filters(record):
    sheet = filters(record)
    (dots,) = sheet.canvas.axes[0].collections
    assert len(dots.get_offsets()) == 12
    assert "is 1.00 over the prunable filters" in sheet.caption
    assert "(median of 1; 1.00 to 1.00)" in sheet.caption


def test_bad_files_are_named(record, tmp_path):
    file = tmp_path / "descent.json"
    command = Descent(file, tmp_path / "out")
    with pytest.raises(ValueError, match="missing"):
        execute_descent(command)
    file.write_text(json.dumps({"runs": 1}))
    with pytest.raises(ValueError, match=r"was not written by .* it lacks config"):
        execute_descent(command)
    file.write_text(json.dumps(record | {"filters": {"layer": [1]}}))
    with pytest.raises(ValueError, match=r"descent.json cannot be drawn"):
        execute_descent(command)
    assert not (tmp_path / "out").exists()
