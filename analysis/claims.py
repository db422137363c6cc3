"""The paper's claims: each states its sentence, statistic and rule, and only then sees numbers.

A claim is one decorated function: it names the numbers that decide, those that check and those
that are reported beside them; the verdict follows from intervals alone (`analysis.verdicts`).
Trajectories (whole runs) decide C1 and C5; cut probes of dense runs decide C2, C3 and C4. Source of
the claims: Lubana & Dick, ICLR 2021 (arXiv 2009.11839).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.outcomes import outcomes
from analysis.pairs import Pairs, pair
from analysis.probed import averaged, probed, ranked
from analysis.runs.frames import Frames
from analysis.settings import name_settings
from analysis.verdicts import (
    RHO,
    SEEDS,
    Claim,
    Criterion,
    Evidence,
    Judgement,
    Tables,
    corrected,
    judge,
)

AGNOSTIC = ("loss", "grasp", "grad_preservation")
"""The paper's measures that do not look at magnitude."""
OTHERS = ("magnitude", "grasp_t1", "grad_preservation")
"""What `loss` is compared with."""
AGNOSTIC_MEAN = "the mean of loss, grasp and grad_preservation"
OTHERS_MEAN = "the mean of magnitude, grasp_t1 and grad_preservation"
LAYERWISE = "random in the layers of magnitude"
"""What pairs call `random` with `allocation=magnitude`."""
SMALL, SMALLER = 0.2, 0.1
"""Largest shares of the filters at which the claims' own arithmetic is tested."""
EARLY, LATE = 0.1, 0.25
"""An epoch is early up to this share of the schedule (and the first one always is), late from this
share on."""

CLAIMS: dict[str, Claim] = {}

PROBES = (
    "cut probes (`measure=none` with `probe_epochs`; at initialisation with `score_bn=fresh` alone)"
)
EQUAL_MACS = "runs with `budget=macs` and `allocation=global`"


def rule(primary: str, checks: str) -> str:
    """The rule that all claims share, with what this one says of its numbers."""
    return (
        f"Supported if {primary}, and the interval of no check ({checks}) lies "
        f"on the other side; refuted if an interval of a primary number lies on the other side; "
        f"else inconclusive. Fewer than {SEEDS} seeds give no verdict."
    )


def claim(
    id: str, *, sentence: str, plain: str, statistic: str, rule: str, needs: str, figures: tuple
) -> Callable[[Callable[[Tables], Evidence]], Claim]:
    """Declare a claim: the function says which of the numbers in the tables decide."""

    def declare(function: Callable[[Tables], Evidence]) -> Claim:
        CLAIMS[id] = Claim(id, sentence, plain, statistic, rule, needs, figures, function)
        return CLAIMS[id]

    return declare


@claim(
    "C1",
    sentence=(
        "Keeping large-magnitude filters gives a pruned model whose loss falls faster than with "
        "magnitude-agnostic measures."
    ),
    plain="A net learns faster after a cut if its filters with large weights are kept.",
    statistic=(
        "Training loss after the last cut, averaged over the epochs that remain, of nets cut to "
        "equal MACs: magnitude minus the mean of loss, grasp and grad_preservation, paired by "
        "setting and seed. Check: minus random in the layers of magnitude (allocation=magnitude)."
    ),
    rule=rule("the 95 % interval of the difference lies below 0", "claimed to be below 0"),
    needs=f"{EQUAL_MACS} of magnitude, loss, grasp and grad_preservation",
    figures=("loss_after_cut", "epochs_to_threshold", "convergence"),
)
def faster_loss(tables: Tables) -> Evidence:
    """C1."""
    macs, filters = (_comparable(tables.runs, budget) for budget in ("macs", "filters"))
    size = ["magnitude"]

    def loss(
        name: str, table: pd.DataFrame, left: Sequence[str], right: Sequence[str], sign: int | None
    ) -> Criterion:
        equal = "MACs" if table is macs else "filters"
        label = f"training loss, {left[0]} minus {name}, at equal {equal}"
        return Criterion(label, "nats", pair(table, "loss_after_cut", left, right), sign)

    def both(table: pd.DataFrame, sign: int | None) -> tuple[Criterion, Criterion]:
        return (
            loss(AGNOSTIC_MEAN, table, size, AGNOSTIC, sign),
            loss("random in its layers", table, size, [LAYERWISE], sign),
        )

    courses = {
        "epochs_to_threshold": ("epochs to the threshold", "epochs"),
        "reached": ("share of runs that get there", "of runs"),
        "fall": (
            "fall of the training loss from the first to the last epoch after the cut",
            "nats",
        ),
    }
    primary, check = both(macs, -1)
    return Evidence(
        (primary,),
        (check,),
        (
            *both(filters, None),
            *(
                Criterion(
                    f"{words}, magnitude minus {AGNOSTIC_MEAN}",
                    unit,
                    pair(macs, value, size, AGNOSTIC),
                )
                for value, (words, unit) in courses.items()
            ),
            *(loss(AGNOSTIC_MEAN, macs, [name], AGNOSTIC, None) for name in ("l1", "bn_scale")),
            *(loss(name, macs, size, [name], None) for name in (*AGNOSTIC, "grasp_t1", "random")),
        ),
    )


@claim(
    "C2",
    sentence=(
        "Loss preservation removes the slowest-changing parameters, so it preserves first-order "
        "dynamics (the loss, and the speed of the squared parameter norm) across a cut, and "
        "suits minimally trained models."
    ),
    plain=(
        "In a net that has hardly been trained, cutting what the measure loss scores lowest "
        "changes the loss less than cutting by other measures does."
    ),
    statistic=(
        f"Cut probes of at most {SMALL:.0%} of the filters, at epochs up to a tenth of the "
        "schedule (or the first): change of the loss, loss minus the mean of magnitude, grasp_t1 "
        "and grad_preservation, averaged over shares and epochs. Check: the same of the size of "
        "the change of d|θ|²/dt = -2 θ·g. That identity itself is tested along gradient descent, "
        "by a command of its own (docs/paper.md)."
    ),
    rule=rule("the 95 % interval of the difference lies below 0", "claimed to be below 0"),
    needs=f"{PROBES} of early epochs",
    figures=("probe_losses", "probe_correlations"),
)
def first_order(tables: Tables) -> Evidence:
    """C2."""
    small = tables.probes[tables.probes["share"] <= SMALL]
    early, later = averaged(small, _early(small)), averaged(small, ~_early(small))
    change = "change of loss{}, loss minus {}"
    shift = f"size of the change of d|θ|²/dt{{}}, loss minus {OTHERS_MEAN}"
    own = ["loss"]

    def changes(name: str) -> Criterion:
        return Criterion(change.format("", name), "nats", pair(early, "loss_change", own, [name]))

    return Evidence(
        (
            Criterion(
                change.format("", OTHERS_MEAN),
                "nats",
                pair(early, "loss_change", own, OTHERS),
                -1,
            ),
        ),
        (Criterion(shift.format(""), "nats", pair(early, "first_order_shift", own, OTHERS), -1),),
        (
            *map(changes, (*OTHERS, "random")),
            Criterion(
                change.format(" at later epochs", OTHERS_MEAN),
                "nats",
                pair(later, "loss_change", own, OTHERS),
            ),
            Criterion(
                shift.format(" at later epochs"),
                "nats",
                pair(later, "first_order_shift", own, OTHERS),
            ),
        ),
    )


@claim(
    "C3",
    sentence=(
        "Biased by a magnitude heuristic, loss preservation still preserves the loss, and "
        "magnitude-based measures do so late in training."
    ),
    plain=(
        "The measure loss_biased, which prefers large weights, changes the loss less than chance "
        "does, and hardly more than loss; so does magnitude, once the net is trained a while."
    ),
    statistic=(
        f"Cut probes of at most {SMALL:.0%} of the filters, averaged over shares and epochs: "
        "change of the loss, loss_biased minus (a) random, (b) loss and a tenth of the distance "
        "ln C - L of the loss from chance. Checks: the same two for magnitude, from "
        f"{LATE:.0%} of the schedule on."
    ),
    rule=rule("the 95 % intervals of both differences lie below 0", "claimed to be below 0"),
    needs=PROBES,
    figures=("probe_losses", "probe_correlations", "agreement"),
)
def biased_loss(tables: Tables) -> Evidence:
    """C3."""
    small = tables.probes[tables.probes["share"] <= SMALL]
    late = small["epoch"] >= LATE * small["epochs"]
    whole, last, first = averaged(small), averaged(small, late), averaged(small, ~late)
    ranks_late = tables.ranks["epoch"] >= LATE * tables.ranks["epochs"]

    def both(table: pd.DataFrame, name: str, sign: int | None, when: str = "") -> tuple:
        against_chance = pair(table, "loss_change", [name], ["random"])
        against_loss = pair(_with_allowance(table), "loss_change", [name], ["loss"])
        return (
            Criterion(f"change of loss{when}, {name} minus random", "nats", against_chance, sign),
            Criterion(
                f"change of loss{when}, {name} minus loss and the allowance",
                "nats",
                against_loss,
                sign,
            ),
        )

    def correlation(one: str, other: str, when: str, chosen: pd.Series | bool) -> Criterion:
        label = f"rank correlation of {one} and {other}, {when}"
        return Criterion(label, RHO, _rank_pairs(tables.ranks, one, other, chosen))

    return Evidence(
        both(whole, "loss_biased", -1),
        both(last, "magnitude", -1, " late in training"),
        (
            *both(first, "magnitude", None, " early in training"),
            correlation("loss", "loss_biased", "all epochs", True),
            correlation("loss", "magnitude", "early", ~ranks_late),
            correlation("loss", "magnitude", "late", ranks_late),
        ),
    )


@claim(
    "C4",
    sentence=(
        "Increasing the gradient norm by pruning (GraSP) removes the parameters that raise the "
        "loss most."
    ),
    plain=(
        "Cutting so that the gradient grows (grasp_t1) raises the loss more than cutting by chance "
        "or by loss."
    ),
    statistic=(
        f"Cut probes of at most {SMALLER:.0%} of the filters, averaged over shares and epochs: "
        "change of the loss, grasp_t1 minus (a) random, (b) loss. Check: the rank correlation of "
        "-θ·Hg and -θ·g of the filters."
    ),
    rule=rule("the 95 % intervals of both differences lie above 0", "claimed to be above 0"),
    needs=PROBES,
    figures=("probe_losses", "probe_correlations", "cut_changes"),
)
def raised_loss(tables: Tables) -> Evidence:
    """C4."""
    smaller = averaged(tables.probes[tables.probes["share"] <= SMALLER])

    def change(name: str, other: str, sign: int | None = None) -> Criterion:
        label = f"change of loss, {name} minus {other}"
        return Criterion(label, "nats", pair(smaller, "loss_change", [name], [other]), sign)

    def gradient(which: str, words: str) -> Criterion:
        label = f"{words} change of |g|², grasp_t1 minus random"
        return Criterion(label, "nats²", pair(smaller, which, ["grasp_t1"], ["random"]))

    together = _rank_pairs(tables.ranks, "theta_g", "theta_hg")
    return Evidence(
        (change("grasp_t1", "random", +1), change("grasp_t1", "loss", +1)),
        (Criterion("rank correlation of -θ·Hg and -θ·g of the filters", RHO, together, +1),),
        (
            change("grasp", "random"),
            change("grasp", "loss"),
            gradient("grad_norm_sq_change", "actual"),
            gradient("predicted_grad_norm_sq_change", "predicted"),
        ),
    )


@claim(
    "C5",
    sentence=(
        "Preserving the gradient norm keeps second-order dynamics and gives better models than "
        "increasing it."
    ),
    plain=(
        "A net that is cut so that its gradient stays as it is (grad_preservation) ends more "
        "accurate than one that is cut so that it grows (grasp_t1)."
    ),
    statistic=(
        "Test accuracy after the last epoch, of nets cut to equal MACs: grad_preservation minus "
        "grasp_t1, paired by setting and seed. Check: cut probes of at most "
        f"{SMALL:.0%} of the filters, size of the change of d²|θ|²/dt², grad_preservation minus "
        "grasp_t1, claimed to be below 0."
    ),
    rule=rule("the 95 % interval of the difference lies above 0", "claimed to be below 0"),
    needs=f"{EQUAL_MACS} of grad_preservation and grasp_t1",
    figures=("final_accuracy", "gradient_change", "probe_losses"),
)
def preserved_gradient(tables: Tables) -> Evidence:
    """C5."""
    macs, filters = (_comparable(tables.runs, budget) for budget in ("macs", "filters"))
    small = averaged(tables.probes[tables.probes["share"] <= SMALL])
    kept, raised = ["grad_preservation"], ["grasp_t1"]
    label = "final accuracy, grad_preservation minus {}, at equal {}"
    loss = "training loss after the cut, grad_preservation minus grasp_t1, at equal MACs"
    shift = "size of the change of d²|θ|²/dt², grad_preservation minus grasp_t1"

    def accuracy(table: pd.DataFrame, name: str, equal: str, sign: int | None = None) -> Criterion:
        pairs = pair(table, "final_accuracy", kept, [name])
        return Criterion(label.format(name, equal), "accuracy", pairs, sign)

    return Evidence(
        (accuracy(macs, "grasp_t1", "MACs", +1),),
        (Criterion(shift, "nats", pair(small, "second_order_shift", kept, raised), -1),),
        (
            accuracy(macs, "grasp", "MACs"),
            accuracy(filters, "grasp_t1", "filters"),
            accuracy(filters, "grasp", "filters"),
            Criterion(loss, "nats", pair(macs, "loss_after_cut", kept, raised)),
        ),
    )


def _comparable(runs: pd.DataFrame, budget: str) -> pd.DataFrame:
    """The runs that are compared under a budget: those with one ranking over all layers, and
    `random` in the layers of magnitude as a measure of its own.

    Cuts at initialisation count only with batch-norm statistics of the scoring set.
    """
    layerwise = (runs["measure"] == "random") & (runs["allocation"] == "magnitude")
    chosen = (runs["budget"] == budget) & (layerwise | (runs["allocation"] == "global"))
    chosen &= (runs["prune_epoch"] != 0) | (runs["score_bn"] == "fresh")
    measures = runs["measure"].mask(layerwise, LAYERWISE)
    table = runs.assign(measure=measures, allocation="global")[chosen]
    return name_settings(table)


def _early(table: pd.DataFrame) -> pd.Series:
    return table["epoch"] <= (EARLY * table["epochs"]).clip(lower=1)


def _with_allowance(table: pd.DataFrame) -> pd.DataFrame:
    """The table, in which the change of `loss` has the allowance of C3."""
    allowed = table["loss_change"].mask(table["measure"] == "loss", table["allowed"])
    return table.assign(loss_change=allowed)


def _rank_pairs(
    ranks: pd.DataFrame, one: str, other: str, chosen: pd.Series | bool = True
) -> Pairs:
    """The rank correlation of two scores at the chosen rows, by itself."""
    return pair(averaged(ranks, chosen), "rho", ["|".join(sorted((one, other)))])


def _counting(table: pd.DataFrame) -> pd.DataFrame:
    """The probes that count: those at initialisation only with batch-norm statistics of the scoring
    set."""
    return table[(table["epoch"] != 0) | (table["score_bn"] == "fresh")]


def judge_all(frames: Frames, claims: Sequence[Claim] | None = None) -> list[Judgement]:
    """Decide every claim on the finished runs. The same frames give the same numbers."""
    tables = Tables(outcomes(frames), _counting(probed(frames)), _counting(ranked(frames)))
    return corrected([judge(claim, tables) for claim in claims or CLAIMS.values()])
