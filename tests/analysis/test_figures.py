"""Every figure draws every kind of grid, and a measure looks the same everywhere."""

import base64
import io
import itertools
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from analysis.report import style
from analysis.report.figures import FIGURES, layer_densities, results, sample_size, save
from analysis.report.figures.scale import log_axis, round_ticks, signed_scale
from analysis.runs.load import load
from analysis.settings import named, settings_of
from benchmark.config import RunConfig
from benchmark.measures import MEASURES
from tests.support import simulate
from tests.support.simulate import World

PROBES = ("run_id", "epoch", "measure", "share", "draw", "actual.loss_change")
RANKS = ("run_id", "epoch", "a", "b", "rho")


def frames_of(path, configs, world=None):
    simulate.simulate(path, configs, world)
    return named(load(str(path)))


SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
HARM = {"magnitude": 2.0, "loss": 0.5, "loss_biased": 0.7, "grasp_t1": 5.0, "random": 4.0}
"""Change of the loss by each measure, in nats for all filters at epoch 1."""
RHO = {("theta_g", "theta_hg"): 0.7, ("loss", "loss_biased"): 0.9, ("loss", "magnitude"): 0.1}


def probed_frames(path, *, seeds=(0, 1, 2), epochs=(1, 3, 10), **others):
    """Dense runs with probes at these epochs. `random` has two draws, one twice as harmful as
    planted, one not at all; seeds differ by a tenth."""
    text = ",".join(map(str, epochs))
    runs = [
        RunConfig(measure="none", epochs=10, probe_epochs=text, seed=seed, **others)
        for seed in seeds
    ]
    frames = frames_of(path, [config.canonical() for config in runs])
    probes, ranks = [], []
    for config in runs:
        factor = 1 + 0.1 * (config.seed - 1)
        for epoch, share, (measure, harm) in itertools.product(epochs, SHARES, HARM.items()):
            change = factor * harm * share**1.5 * np.sqrt(epoch)
            for draw in range(1 + (measure == "random")):
                value = 2 * change * draw if measure == "random" else change
                probes.append((config.run_id, epoch, measure, share, draw, value))
        for epoch, ((a, b), rho) in itertools.product(epochs, RHO.items()):
            ranks.append((config.run_id, epoch, a, b, factor * rho))
        ranks.append((config.run_id, 1, "fisher", "loss", 0.5))
    return replace(
        frames,
        probes=pd.DataFrame(probes, columns=list(PROBES)),
        probe_ranks=pd.DataFrame(ranks, columns=list(RANKS)),
    )


def over_ratios(ratios=(0.5, 0.75, 0.9), **fields):
    return [
        config
        for ratio in ratios
        for config in simulate.grid(ratio=ratio, dense=ratio == ratios[0], **fields)
    ]


GRIDS = {
    "demo": (simulate.grid(), World(growth={"grasp": 4}, agreement=True)),
    "one seed, no dense control": (simulate.grid(seeds=[0], dense=False), World()),
    "rounds and restart": (
        simulate.grid(timings=[0, "trained"], rounds=[1, 3], seeds=[0, 1]),
        World(),
    ),
    "one setting without its dense control": (
        [*simulate.grid(), *simulate.grid(measures=["loss"], epochs=7, dense=False)],
        World(),
    ),
    "flow seldom, one measure diverged": (
        simulate.grid(),
        World(diverged=("grasp",), flow_every=4),
    ),
}


@pytest.fixture(scope="module", params=GRIDS, ids=list(GRIDS))
def frames(request, tmp_path_factory):
    return frames_of(tmp_path_factory.mktemp("runs"), *GRIDS[request.param])


OWN_PANELS = {"agreement", "order_products", "cost"}
"""Figures whose panels are not settings."""
NEEDS = {"agreement": "demo", "order_products": "dense", "epochs_to_threshold": "dense"}
OF_OTHER_GRIDS = {"probe_losses", "probe_correlations", "accuracy_by_cost"}
"""Figures of runs that these grids do not have."""


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_has_a_title_and_axes_have_labels(frames, name, request):
    canvas, grid = FIGURES[name].draw(frames), request.node.callspec.params["frames"]
    if name in OF_OTHER_GRIDS:
        assert canvas is None
        return
    panels = set(settings_of(frames.runs))
    lacking = (NEEDS.get(name) == "dense" and "no dense" in grid) or (
        NEEDS.get(name) == "demo" and grid != "demo"
    )
    assert (canvas is None) == lacking
    if lacking:
        return
    titles = {
        ax.get_title().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ") for ax in canvas.axes
    } - {""}
    assert (titles == panels) != (name in OWN_PANELS)
    assert all(
        ax.get_xlabel() for ax in canvas.axes if ax.get_title() and len(titles) == len(canvas.axes)
    )
    assert any(
        ax.get_ylabel() or [t.get_text() for t in ax.get_yticklabels()] for ax in canvas.axes
    )
    assert "n = " in FIGURES[name].caption_for(frames)


@pytest.fixture(scope="module")
def six_settings(tmp_path_factory):
    configs = simulate.grid(timings=[0, 4, "trained"], rounds=[1, 3])
    return frames_of(tmp_path_factory.mktemp("runs"), configs, World(agreement=True))


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in OF_OTHER_GRIDS])
def test_no_panel_covers_another_or_leaves_the_figure(name, six_settings):
    check_boxes(FIGURES[name].draw(six_settings))


def check_boxes(canvas):
    with matplotlib.rc_context(style.RC):
        canvas.get_layout_engine().execute(canvas)  # as `save` does
    renderer = FigureCanvasAgg(canvas).get_renderer()
    boxes = [Axes.get_tightbbox(ax, renderer) for ax in canvas.axes if ax.axison]
    inside = canvas.bbox.padded(1)
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)
    assert not any(
        one.padded(-1).overlaps(other) for one, other in itertools.combinations(boxes, 2)
    )


def test_only_the_dense_control_draws_curves_and_nothing_else(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(measures=[]))
    assert {name for name, plot in FIGURES.items() if plot.draw(frames)} == {
        "convergence", "gradient_flow", "order_products",
    }  # fmt: skip


def test_without_flow_there_is_no_trajectory(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(seeds=[0]), World(flow_every=1))
    frames.history[[name for name in frames.history if name.startswith("flow/")]] = float("nan")
    assert FIGURES["gradient_flow"].draw(frames) is None


@pytest.mark.parametrize(("dense", "last"), [(True, 10), (False, 4)])
def test_a_pruned_curve_starts_at_its_cut_and_the_dense_one_shows_what_was_before(
    tmp_path, dense, last
):
    frames = frames_of(
        tmp_path, simulate.grid(measures=["loss", "grasp"], timings=[4], dense=dense)
    )
    axes = FIGURES["convergence"].draw(frames).axes[0]
    ends = {
        line.get_color(): tuple(line.get_xdata()[[0, -1]])
        for line in axes.lines
        if len(line.get_xdata()) > 2
    }
    assert ends == {style.look(name).color: (4, 10) for name in ("loss", "grasp")} | {
        style.look("none").color: (1, last)
    }


def test_densities_are_shares_of_the_original_filters(tmp_path):
    frames = frames_of(
        tmp_path, simulate.grid(measures=["loss"], timings=[0], rounds=[3], seeds=[0], dense=False)
    )
    table = layer_densities(frames)
    assert len(table) == len(simulate.PLAN)
    last = frames.kept[frames.kept["round"] == 3]
    assert table["density"].tolist() == (100 * last["kept"] / last["original"]).tolist()
    collapsed = replace(frames, kept=frames.kept[frames.kept["round"] < 3])
    assert layer_densities(collapsed).empty


def test_captions_count_the_runs_that_are_shown(tmp_path):
    """Not those that collapsed before the cut."""
    frames = frames_of(tmp_path, simulate.grid(measures=["loss"], timings=[4], dense=False))
    lost = frames.runs["run_id"].iloc[:1]
    partly = replace(
        frames,
        kept=frames.kept[~frames.kept["run_id"].isin(lost)],
        cuts=frames.cuts[~frames.cuts["run_id"].isin(lost)],
    )
    for name in ("densities", "cut_changes"):
        assert "n = 2 seeds" in FIGURES[name].caption_for(partly)


def test_the_caption_says_how_many_seeds(tmp_path):
    assert sample_size(frames_of(tmp_path / "a", simulate.grid())).startswith("n = 3 seeds")
    one = sample_size(frames_of(tmp_path / "b", simulate.grid(seeds=[0])))
    assert one.startswith("n = 1 seed ")
    assert "no interval" in one
    uneven = [c for c in simulate.grid() if (c.measure, c.seed) != ("loss", 0)]
    assert sample_size(frames_of(tmp_path / "c", uneven)).startswith("n = 2 to 3 seeds")
    partly = [c for c in simulate.grid() if (c.measure, c.seed, c.prune_epoch) != ("loss", 0, 4)]
    frames = frames_of(tmp_path / "d", partly, World(diverged=("grasp",)))
    assert sample_size(frames) == (
        "n = 3 seeds per measure and panel, but 2 to 3 in “cut after 4 epochs” "
        "(32 runs, of which 6 diverged)."
    )


def test_runs_without_the_number_that_is_drawn_do_not_count(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(measures=["loss", "grasp"]))
    early = frames.runs.query("measure == 'grasp' and prune_epoch == 0")["run_id"].iloc[0]
    history = frames.history[frames.history["run_id"] != early]
    caption = FIGURES["final_accuracy"].caption_for(replace(frames, history=history))
    assert "n = 2 to 3 seeds per measure and panel, but 3 in “cut after 4 epochs”" in caption


def test_a_panel_ends_where_its_runs_end(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(measures=["loss"], timings=[4, "trained"]))
    axes = FIGURES["convergence"].draw(frames).axes
    ends = {ax.get_title().replace("\n", " "): ax.get_xlim()[1] for ax in axes if ax.get_title()}
    assert ends["cut after 4 epochs"] == pytest.approx(10, abs=1)
    assert max(ends.values()) == pytest.approx(20, abs=1)


def test_runs_that_never_reach_the_threshold_are_open_dots(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(timings=[0]), World(loss={"random": 2.0}))
    (ax,) = FIGURES["epochs_to_threshold"].draw(frames).axes
    (dots,) = (drawn for drawn in ax.collections if isinstance(drawn, PathCollection))
    opened = [to_hex(face) == "#ffffff" for face in dots.get_facecolors()]
    assert {to_hex(edge).upper() for edge in dots.get_edgecolors()[opened]} == {
        style.look("random").color
    }
    assert set(dots.get_offsets()[opened, 0]) == {10}


def test_the_change_of_the_norm_leaves_out_what_a_cut_removed(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(measures=["loss"], timings=[4], dense=False))
    axes = FIGURES["gradient_flow"].draw(frames).axes
    curves = [
        [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata()) > 2] for ax in axes
    ]
    after, before = [*range(4, 11)], [*range(5)]
    assert curves == [[after, before], [after, before], [[*range(6, 11)], [*range(1, 5)]]]


def test_the_change_of_the_norm_is_one_between_epochs_that_were_measured(tmp_path):
    """Divided by the learning rates between them."""
    whole = frames_of(tmp_path, simulate.grid(measures=["loss"], timings=[4], dense=False))
    seldom = whole.history.copy()
    seldom.loc[seldom["epoch"] % 2 == 1, "flow/weight_norm_sq"] = np.nan
    axes = FIGURES["gradient_flow"].draw(replace(whole, history=seldom)).axes
    drawn = [list(line.get_xdata()) for line in axes[2].lines]
    assert [8, 10] in drawn
    assert [2, 4] in drawn
    assert not any(6 in epochs for epochs in drawn)  # a cut lies before it


def test_agreement_draws_what_was_recorded(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(), World(agreement=True))
    ax = next(ax for ax in FIGURES["agreement"].draw(frames).axes if ax.get_title() == "with loss")
    means = {
        line.get_color(): line.get_ydata()
        for line in ax.lines
        if line.get_marker() not in ("", "None")
    }
    assert means[style.look("taylor").color] == pytest.approx([0.8, 0.76], abs=0.05)
    assert means[style.look("grasp").color] == pytest.approx([0, 0], abs=0.05)
    assert style.look("loss").color not in means


def test_files_are_reproducible(tmp_path):
    frames = frames_of(tmp_path / "runs", simulate.grid(seeds=[0, 1]))
    for name in ("once", "again"):
        save(FIGURES["final_accuracy"].draw(frames), tmp_path / name)
    for ending in ("png", "svg"):
        assert (tmp_path / f"once.{ending}").read_bytes() == (
            tmp_path / f"again.{ending}"
        ).read_bytes()
    with Image.open(tmp_path / "once.png") as image:
        assert image.width == pytest.approx(style.FULL_WIDTH * 150, abs=2)


def test_the_colours_written_are_those_drawn(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(timings=[0], seeds=[0, 1]))
    canvas = FIGURES["convergence"].draw(frames)
    save(canvas, tmp_path / "figure")
    written = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int)
    away = np.abs(written - np.asarray(canvas.canvas.buffer_rgba())[..., :3])
    assert away.mean() < 0.5
    assert (away.max(axis=2) > 8).mean() < 0.01


def test_every_measure_has_a_look_of_its_own():
    looks = {name: style.look(name) for name in {*style.LOOKS, *MEASURES}}
    assert len({(look.color, look.marker, str(look.line)) for look in looks.values()}) == len(looks)
    colors = [to_rgb(style.LOOKS[name].color) for name in style.LOOKS]
    assert all(
        max(abs(a - b) for a, b in zip(*two, strict=True)) > 0.05
        for two in itertools.combinations(colors, 2)
    )


def test_legends_go_by_family_with_the_dense_control_last():
    order = style.in_order(
        {"none", "random", "grasp", "loss", "magnitude", "grad_preservation", "a_new_one"}
    )
    assert order == [
        "magnitude",
        "loss",
        "grad_preservation",
        "grasp",
        "random",
        "a_new_one",
        "none",
    ]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 11, [1, 2, 5, 10]),
        (1.1, 3.2, [1.5, 2, 2.5, 3]),
        (2.6, 6.3, [3, 4, 5, 6]),
        (3.6, 4.4, [3.6, 3.8, 4, 4.2, 4.4]),
    ],
)
def test_a_log_axis_has_round_ticks(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_a_log_axis_of_any_length_has_three_to_seven_ticks():
    lengths = np.geomspace(1.03**2, 50 * 50**0.16, 100)  # what `share_limits` gives it
    counts = {
        len(round_ticks(low, low * length))
        for low in np.geomspace(0.01, 1, 200)
        for length in lengths
    }
    assert counts <= set(range(3, 8))


def curves(ax):
    """{colour: (x, y)} of the lines with markers."""
    return {
        line.get_color(): (line.get_xdata(), line.get_ydata())
        for line in ax.lines
        if line.get_marker() not in ("", "None", None)
    }


def test_losses_of_probes_are_means_over_draws_and_seeds(tmp_path):
    frames = probed_frames(tmp_path / "runs")
    canvas = FIGURES["probe_losses"].draw(frames)
    check_boxes(canvas)
    axes = canvas.axes
    assert [ax.get_title() for ax in axes] == ["after 1 epoch", "after 3 epochs", "after 10 epochs"]
    for ax, epoch in zip(axes, (1, 3, 10), strict=True):
        drawn = curves(ax)
        assert drawn.keys() == {style.look(measure).color for measure in HARM}
        for measure, harm in HARM.items():
            shares, change = drawn[style.look(measure).color]
            assert shares == pytest.approx(100 * np.array(SHARES))
            assert change == pytest.approx(harm * np.array(SHARES) ** 1.5 * np.sqrt(epoch))
        low, high = ax.get_ylim()
        assert low < 0
        assert max(change.max() for _, change in drawn.values()) < high
    caption = FIGURES["probe_losses"].caption_for(frames)
    assert caption.endswith("n = 3 seeds (3 probed runs).")


def test_probes_at_other_epochs_and_of_other_nets(tmp_path):
    one, other = (
        probed_frames(tmp_path / name, seeds=seeds, epochs=epochs)
        for name, seeds, epochs in (("a", (0,), (1, 3)), ("b", (1, 2), (1, 10)))
    )
    both = named(
        replace(
            one,
            **{
                name: pd.concat([getattr(one, name), getattr(other, name)], ignore_index=True)
                for name in ("runs", "history", "probes", "probe_ranks")
            },
        )
    )
    titles = [ax.get_title() for ax in FIGURES["probe_losses"].draw(both).axes]
    assert titles == ["after 1 epoch", "after 3 epochs", "after 10 epochs"]
    (ax,) = FIGURES["probe_correlations"].draw(both).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "3", "10"]
    drawn = curves(ax).values()
    assert len(drawn) == len(RHO)
    assert all(np.isfinite(y).all() and len(y) == 3 for _, y in drawn)
    wide = probed_frames(tmp_path / "c", width=0.5, epochs=(1, 3))
    parts = {
        name: pd.concat([getattr(one, name), getattr(wide, name)], ignore_index=True)
        for name in ("runs", "history", "probes", "probe_ranks")
    }
    canvas = FIGURES["probe_losses"].draw(named(replace(one, **parts)))
    assert len(canvas.axes) >= 4
    titles = {ax.get_title().replace("\N{NO-BREAK SPACE}", " ") for ax in canvas.axes}
    assert "after 3 epochs, width 0.5" in {" ".join(title.split()) for title in titles}


def test_panels_of_probed_losses_have_one_scale(tmp_path):
    """Also in a second row."""
    frames = probed_frames(tmp_path / "runs", epochs=(1, 3, 6, 8, 10))
    axes = [ax for ax in FIGURES["probe_losses"].draw(frames).axes if ax.has_data()]
    assert len(axes) == 5
    assert len({ax.get_ylim() for ax in axes}) == 1


def test_a_seed_that_is_probed_in_two_runs_counts_once(tmp_path):
    one, other = (
        probed_frames(tmp_path / name, seeds=(0, 1), epochs=epochs)
        for name, epochs in (("a", (1, 3)), ("b", (1, 10)))
    )
    both = {
        name: pd.concat([getattr(one, name), getattr(other, name)], ignore_index=True)
        for name in ("runs", "history", "probes", "probe_ranks")
    }
    caption = FIGURES["probe_correlations"].caption_for(named(replace(one, **both)))
    assert "n = 2 seeds (4 probed runs)." in caption


@pytest.mark.parametrize("values", [[1.5], [1.2, 3, 5], [1500, 4000]])
def test_a_signed_axis_has_a_tick_beside_0(values):
    assert len(signed_scale(np.array(values)).ticks) >= 3


def test_a_log_axis_has_room_for_small_shares():
    """Beside large ones, where a linear axis would begin below 0."""
    ax = Figure().subplots()
    ax.scatter([2, 100], [0, 1])
    log_axis(ax.xaxis)
    assert ax.get_xlim()[0] > 0
    assert [tick for tick in ax.get_xticks() if 2 <= tick <= 100] == [2, 5, 10, 20, 50, 100]


def test_one_seed_of_probes_has_no_band(tmp_path):
    frames = probed_frames(tmp_path / "runs", seeds=(1,))
    ax = FIGURES["probe_losses"].draw(frames).axes[0]
    assert not ax.collections
    assert "One seed gives no interval" in FIGURES["probe_losses"].caption_for(frames)


def test_rank_correlations_of_probes(tmp_path):
    frames = probed_frames(tmp_path / "runs")
    canvas = FIGURES["probe_correlations"].draw(frames)
    (ax,) = canvas.axes
    found = sorted(line[1].mean() for line in curves(ax).values())
    assert found == pytest.approx(sorted(RHO.values()))
    labels = [text.get_text() for text in canvas.legends[0].texts]
    assert labels == ["θ·Hg with θ·g", "loss with loss_biased", "loss with magnitude"]
    bars = np.concatenate([np.concatenate(bar.get_segments())[:, 1] for bar in ax.collections])
    assert bars.max() <= 1
    assert len(bars) == 2 * 3 * 3


@pytest.mark.parametrize("budget", ["filters", "macs"])
def test_accuracy_over_ratios_is_drawn_by_budget(tmp_path, budget):
    loss = World(accuracy={"loss": 0.05, "random": -0.1}, noise=0.001)
    other = "params" if budget == "macs" else "macs"
    configs = over_ratios(timings=[0], budget=budget)
    configs += over_ratios([0.6], timings=[0], budget=other)  # another budget is another figure
    frames = frames_of(tmp_path / "runs", configs, loss)
    canvas = FIGURES["accuracy_by_cost"].draw(frames)
    check_boxes(canvas)
    ax, *others = canvas.axes
    assert [other.get_xlabel() for other in others] == [
        "parameters left (%)", "time per image (% of dense)",
    ]  # fmt: skip
    for other in others:  # costs are proportional here
        for color, line in curves(ax).items():
            assert np.allclose(curves(other)[color], line, rtol=1e-3)
    assert ax.get_title().replace("\n", " ").startswith("cut at initialisation, budget")
    assert budget in ax.get_title()
    known = {style.look(name).color for name in simulate.MEASURES}
    drawn = {color: line for color, line in curves(ax).items() if color in known}
    best, worst = (drawn[style.look(name).color] for name in ("loss", "random"))
    assert len(best[0]) == 3
    assert (np.diff(best[0]) < 0).all()
    assert (best[1] > worst[1] + 5).all()
    (rings,) = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    points = [point for line in drawn.values() for point in zip(*line, strict=True)]
    front = [
        (x, y) for x, y in points if not any(a <= x + 1e-9 and b > y + 1e-9 for a, b in points)
    ]
    assert rings.get_xydata() == pytest.approx(np.array(sorted(front)))


def test_one_ratio_of_each_budget_is_no_curve(tmp_path):
    configs = [*over_ratios([0.5], budget="macs"), *over_ratios([0.75], budget="filters")]
    assert FIGURES["accuracy_by_cost"].draw(frames_of(tmp_path, configs)) is None


def test_the_front_has_no_row_that_another_beats():
    means = pd.DataFrame({"macs": [10, 10, 20, 30, 40.0], "accuracy": [50, 60, 60, 55, 70.0]})
    front = results._front(means, "macs")
    assert front.to_numpy().tolist() == [[10, 60], [40, 70]]


def test_the_picture_of_the_page_keeps_the_colours_of_measures(tmp_path):
    frames = frames_of(tmp_path / "runs", simulate.grid(timings=[4]))
    page = save(FIGURES["convergence"].draw(frames), tmp_path / "figure")
    picture = base64.b64decode(page.removeprefix("data:image/webp;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3).astype(int)
    shown = np.unique(shown, axis=0)
    for measure in simulate.MEASURES:
        color = 255 * np.array(to_rgb(style.look(measure).color))
        assert np.abs(shown - color).max(axis=1).min() <= 16
