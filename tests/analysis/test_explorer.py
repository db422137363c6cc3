"""The data of the explorer: unpacked again, they are the means and bands of the
frames."""

import base64
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.report import style
from analysis.report.page.explorer import (
    BAND_STEPS,
    LINEAR_STEPS,
    LOG_STEP,
    QUANTITIES,
    explorer_data,
)
from analysis.runs.load import load
from analysis.settings import named
from analysis.stats import mean_interval
from tests.support import simulate
from tests.support.simulate import World


def frames_of(folder, world=None, configs=None):
    simulate.simulate(folder, configs or simulate.grid(timings=[0, 4], rounds=[3]), world)
    return named(load(str(folder)))


def lines_of(content, group=0):
    """{(setting, measure, quantity): arrays [epochs, mean, low, high]}, decoded as the page does
    it."""
    part = content["groups"][group]
    curves = json.loads(gzip.decompress(base64.b64decode(part["curves"])))
    lines = {}
    for setting in part["settings"]:
        for measure, line, *_ in setting["lines"]:
            for number, (item, step) in enumerate(zip(QUANTITIES, part["steps"], strict=True)):
                if (packed := curves[line][number]) is not None:
                    epochs, mean = np.cumsum(packed[:2], axis=1)
                    widths = content["band"] * np.array(packed[2:])
                    values = [
                        mean,
                        *(
                            mean + sign * width
                            for sign, width in zip((-1, 1), widths, strict=False)
                        ),
                    ]
                    values = [
                        10 ** (step * value) if item.log else step * value for value in values
                    ]
                    name = content["measures"][measure]["name"]
                    lines[setting["name"], name, item.key] = [epochs, *values]
    return lines


def test_what_is_packed_are_the_means_and_bands_of_the_runs(tmp_path):
    frames = frames_of(tmp_path)
    lines = lines_of(explorer_data(frames))
    panel = "cut after 4 epochs"
    ids = frames.runs.loc[
        (frames.runs["setting"] == panel) & (frames.runs["measure"] == "loss"), "run_id"
    ]
    history = frames.history[frames.history["run_id"].isin(ids)]
    for item in QUANTITIES:
        epochs, mean, low, high = lines[panel, "loss", item.key]
        assert epochs.tolist() == list(
            range(4, 11)
        )  # what is before the cut, the dense control shows
        values = history.pivot(index="run_id", columns="epoch", values=item.key)[epochs].to_numpy()
        values = item.scale * (np.abs(values) if item.absolute else values)
        values = np.log10(values) if item.log else values
        wanted = [
            values.mean(axis=0),
            *(np.clip(bound, *item.bounds) for bound in mean_interval(values)),
        ]
        wanted = np.power(10, wanted) if item.log else np.array(wanted)
        step = (
            LOG_STEP * np.log(10)
            if item.log
            else item.scale * np.ptp(history[item.key].dropna()) / LINEAR_STEPS
        )
        slack = {"rel": step, "abs": 0} if item.log else {"rel": 0, "abs": step}
        assert mean == pytest.approx(wanted[0], **slack)
        slack = {name: BAND_STEPS * value for name, value in slack.items()}
        assert np.array([low, high]) == pytest.approx(wanted[1:], **slack)


def test_the_dense_control_is_in_every_setting_and_stored_once(tmp_path):
    content = explorer_data(frames_of(tmp_path))
    settings = content["groups"][0]["settings"]
    assert [setting["cuts"] for setting in settings] == [[0, 1, 2], [4, 5, 6]]
    assert content["measures"][-1]["name"] == style.name("none")
    dense = [setting["lines"][-1] for setting in settings]
    assert dense[0] == dense[1]
    assert lines_of(content)["cut after 4 epochs", style.name("none"), "test/accuracy"][
        0
    ].tolist() == list(range(11))


def test_without_the_dense_control_the_shared_phase_is_a_line_of_its_own(tmp_path):
    frames = frames_of(tmp_path, configs=simulate.grid(timings=[4], dense=False))
    content = explorer_data(frames)
    found = lines_of(content)
    ends = {
        measure: (epochs[0], epochs[-1])
        for (_, measure, key), (epochs, *_) in found.items()
        if key == "test/loss"
    }
    names = map(style.name, simulate.MEASURES)
    assert ends == dict.fromkeys(names, (4, 10)) | {style.name("none"): (0, 4)}
    assert {seeds for _, _, seeds, _ in content["groups"][0]["settings"][0]["lines"]} == {3}


def test_curves_end_where_a_run_diverged_and_skip_epochs_without_flow(tmp_path):
    lines = lines_of(explorer_data(frames_of(tmp_path, World(diverged=("loss",), flow_every=5))))
    assert lines["cut after 4 epochs", "loss", "train/loss"][0].tolist() == [4, 5, 6]
    assert lines["cut after 4 epochs", "magnitude", "flow/grad_norm"][0].tolist() == [5, 10]


def test_one_seed_is_packed_without_a_band_and_ablations_are_left_out(tmp_path):
    configs = [*simulate.grid(seeds=[0]), *simulate.grid(seeds=[0], ablation="invert", dense=False)]
    content = explorer_data(frames_of(tmp_path, configs=configs))
    lines = lines_of(content)
    assert {len(arrays) for arrays in lines.values()} == {2}
    assert not any("invert" in setting for setting, _, _ in lines)


def test_looks_are_those_of_the_figures_and_seen_on_dark(tmp_path):
    content = explorer_data(frames_of(tmp_path))
    for look, measure in zip(
        content["measures"], style.in_order([*simulate.MEASURES, "none"]), strict=True
    ):
        assert (look["name"], look["color"]) == (style.name(measure), style.look(measure).color)
        assert bool(look["marker"]) == bool(style.look(measure).marker)
    for measure in style.LOOKS:
        assert style.contrast(style.on_dark(style.look(measure).color), style.DARK_PAGE) >= 4.5


def test_the_same_runs_give_the_same_text_at_any_time(tmp_path, monkeypatch):
    frames = frames_of(tmp_path)
    before = json.dumps(explorer_data(frames))
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert json.dumps(explorer_data(frames)) == before


def test_a_group_without_any_number_harms_no_other(tmp_path):
    """All its runs collapsed at initialisation: the page has no NaN, which no browser reads."""
    frames = frames_of(tmp_path)
    lost = frames.history[["test/accuracy", "train/loss"]].mask(frames.history["epoch"] >= 0)
    content = explorer_data(replace(frames, history=frames.history.assign(**lost)))
    json.dumps(content, allow_nan=False)
