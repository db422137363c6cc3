"""The leaderboard: ranks, wins, and who is left out."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import rankdata

from analysis import leaderboard
from analysis.leaderboard import leaderboards
from analysis.outcomes import outcomes
from analysis.report.figures import ranks
from analysis.report.text import board_sentence
from analysis.runs.folder import read_folder
from analysis.settings import named
from tests.support.simulate import World, grid, simulate

OWN = "cosine@0123456789ab"
MEASURES = ("magnitude", "loss", "random", OWN)
ACCURACY = {"loss": -0.1, "magnitude": -0.2, "random": -0.3}


def frames_of(runs, *parts, world=None):
    for part in parts:
        simulate(runs, part, world or World(accuracy=ACCURACY))
    return named(read_folder(str(runs)))


def configs(**fields):
    fields = {"measures": MEASURES, "budget": "macs", "seeds": range(5)} | fields
    return grid(**fields)


def test_a_planted_best_measure_leads_and_wins(tmp_path):
    (board,) = leaderboards(frames_of(tmp_path, configs()))
    table = board.table.set_index("measure")
    assert (board.budget, board.seeds, board.left_out) == ("macs", (5, 5), {})
    assert len(board.settings) == 2
    assert list(table.index) == [OWN, "loss", "magnitude", "random"]
    assert table["outside"].to_dict() == dict.fromkeys(table.index, False) | {OWN: True}
    assert table["rank"].tolist() == [1, 2, 3, 4]
    against = [f"{what}_magnitude" for what in ("wins", "ties", "losses")]
    assert table.loc["loss", against].tolist() == [2, 0, 0]
    assert table.loc["magnitude", "ties_magnitude"] == 2
    assert table.loc["random", "losses_magnitude"] == 2
    assert (table["accuracy_low"] < table["accuracy"]).all()
    assert table["score_seconds"].tolist() == [0.05] * 4
    assert (table["collapsed"] == 0).all()
    assert board_sentence(board).startswith(f"{OWN} has the best mean rank of 4 measures, 1")


def test_measures_with_the_same_sum_of_ranks_share_the_lead(tmp_path):
    """The means of these ranks differ by rounding."""
    names, timings = ("magnitude", "loss", "random"), (2, 3, 4, 5, 6)
    frames = frames_of(tmp_path, configs(measures=names, timings=timings, seeds=range(3)))
    order = np.random.default_rng(0)
    found = 0
    for _ in range(15):
        places = {
            (t, s): dict(zip(order.permutation(names), (1, 2, 3), strict=True))
            for t in timings
            for s in range(3)
        }
        sums = {name: sum(place[name] for place in places.values()) for name in names}
        runs = frames.runs.set_index("run_id")
        ids = frames.history["run_id"]
        keys = runs.loc[ids, ["measure", "prune_epoch", "seed"]].itertuples(index=False)
        accuracy = [1 - places[t, s].get(m, 0) / 10 if (t, s) in places else 1 for m, t, s in keys]
        (board,) = leaderboards(
            replace(frames, history=frames.history.assign(**{"test/accuracy": accuracy}))
        )
        ranks = board.table.set_index("measure")["rank"]
        for one, other in combinations(names, 2):
            assert (ranks[one] == ranks[other]) == (sums[one] == sums[other])
            found += sums[one] == sums[other]
    assert found


def test_ranks_are_those_of_each_setting_and_seed(tmp_path):
    frames = frames_of(tmp_path, configs(), world=World(noise=0.2))
    (board,) = leaderboards(frames)
    rows = outcomes(frames)
    rows = rows[rows["measure"] != "none"]
    expected = {measure: [] for measure in MEASURES}
    for _, part in rows.groupby(["task", "seed"]):
        for measure, rank in zip(part["measure"], rankdata(-part["final_accuracy"]), strict=True):
            expected[measure].append(rank)
    for row in board.table.itertuples():
        assert row.rank == pytest.approx(np.mean(expected[row.measure]))
        assert row.rank_low < row.rank < row.rank_high


def test_a_run_that_collapsed_is_last_and_counts_as_accuracy_0(tmp_path):
    world = World(accuracy=ACCURACY, diverged=(OWN,))
    (board,) = leaderboards(frames_of(tmp_path, configs(), world=world))
    table = board.table.set_index("measure")
    assert table.loc[OWN, ["rank", "accuracy", "collapsed"]].tolist() == [4, 0, 1]
    assert np.isnan(table.loc[OWN, "loss"])
    assert table.loc[OWN, "losses_random"] == 2


def test_measures_that_lack_runs_are_named_and_budgets_are_apart(tmp_path):
    some = configs(measures=("taylor",), timings=(4,), dense=False)
    filters = configs(budget="filters", measures=("loss", "random"), dense=False)
    alone = configs(budget="params", measures=("loss",), dense=False)
    few = ("loss", "random", OWN)  # three measures in two settings more
    layerwise = configs(measures=few, allocation="magnitude", dense=False)
    ablated = configs(measures=few, ablation="invert", dense=False)
    parts = (configs(), some, filters, alone, layerwise, ablated)
    boards = leaderboards(frames_of(tmp_path, *parts))
    assert [board.budget for board in boards] == ["macs", "filters"]
    assert set(boards[0].table["measure"]) == {*MEASURES}
    assert boards[0].left_out == {"taylor": 1}
    assert "taylor (1 of 2 settings)" in board_sentence(boards[0])
    assert set(boards[1].table["measure"]) == {"loss", "random"}
    assert boards[1].table["wins_magnitude"].isna().all()


def test_a_missing_seed_leaves_a_measure_out(tmp_path):
    some = [c for c in configs() if (c.measure, c.seed) != ("loss", 4)]
    (board,) = leaderboards(frames_of(tmp_path, some))
    assert board.left_out == {"loss": 0}
    assert board.seeds == (5, 5)


def test_a_run_that_collapsed_is_below_one_of_accuracy_0():
    accuracy = np.array([0.5, 0.0, 0.0, 0.5]).reshape(4, 1, 1)
    lost = np.array([False, False, True, False]).reshape(4, 1, 1)
    assert leaderboard._ranks(accuracy, lost).ravel().tolist() == [1.5, 3, 4, 1.5]


def test_one_seed_has_ranks_without_intervals_and_one_measure_none(tmp_path):
    (board,) = leaderboards(frames_of(tmp_path / "one", configs(seeds=[0])))
    assert board.table["rank_low"].isna().all()
    assert board.table["ties_random"].eq(2).all()
    assert leaderboards(frames_of(tmp_path / "two", configs(measures=("loss",)))) == []


def test_the_figure_has_a_row_per_measure_and_a_profile_with_controls(tmp_path):
    (board,) = leaderboards(frames_of(tmp_path / "a", configs()))
    ax, profiles = ranks.rank_plot(board).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[1:] == ["loss", "magnitude", "random"]
    assert ax.get_yticklabels()[0].get_fontweight() == "bold"
    assert len(profiles.lines) == 4
    for line in profiles.lines:
        y = line.get_ydata()
        assert (np.diff(y) <= 0).all()
        assert y[-1] == 0
    (board,) = leaderboards(frames_of(tmp_path / "b", configs(dense=False)))
    assert len(ranks.rank_plot(board).axes) == 1
    assert "right panel" not in ranks.caption(board)


@pytest.mark.parametrize(
    ("seeds", "shown", "count"),
    [
        ({"magnitude": range(5), "random": range(5), "loss": range(10)}, 3, 5),
        ({"magnitude": range(5), "random": range(6)}, 2, 5),
        ({"magnitude": (1, 2, 3, 4), "random": (0, 2, 3, 4)}, 2, 3),
        ({"magnitude": range(5), "random": range(5), "loss": range(2)}, 2, 5),
    ],
)
def test_uneven_seeds_leave_a_board_of_those_that_are_shared(tmp_path, seeds, shown, count):
    configs = [
        config
        for measure, own in seeds.items()
        for config in grid(measures=[measure], timings=[4], seeds=own, dense=False, budget="macs")
    ]
    (board,) = leaderboards(frames_of(tmp_path, configs))
    assert (len(board.table), board.seeds) == (shown, (count, count))
    assert board.table["rank_low"].ge(1).all()
    assert board.table["rank_high"].le(shown).all()


def test_a_setting_of_one_seed_takes_no_interval_away(tmp_path):
    configs = [
        *grid(measures=["magnitude", "random"], timings=[4], seeds=range(5), budget="macs"),
        *grid(measures=["magnitude", "random"], timings=[2], seeds=[0], budget="macs"),
    ]
    (board,) = leaderboards(frames_of(tmp_path, configs))
    assert len(board.settings) == 1
    assert board.table["rank_low"].notna().all()
