"""The paper's claims: each states its sentence, statistic and rule, and only then sees numbers.

A claim is one decorated function: it names the runs that decide (and those that say more), nothing
else; the verdict follows from intervals alone (`analysis.verdicts`). Source of the claims: Lubana &
Dick, ICLR 2021 (arXiv 2009.11839).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from analysis.outcomes import LEAST_CHANGE, outcomes
from analysis.pairs import Pairs, pair
from analysis.runs.frames import AGREEMENT, Frames
from analysis.settings import DENSE
from analysis.verdicts import RHO, Claim, Criterion, Evidence, Judgement, corrected, judge

MAGNITUDE = ("magnitude", "l1", "bn_scale")
"""Measures that keep what is large."""
AGNOSTIC = ("loss", "taylor", "fisher", "fisher_bn", "grasp", "grad_preservation")
"""Importance measures without a bias to magnitude: orders 1 and 2, the biased ones and the controls
left out."""
OTHER_ORDERS = (*MAGNITUDE, "grasp", "grad_preservation")
"""Importance measures of orders 0 and 2."""
EARLY, LATE = 0.1, 0.25
"""A cut is early up to this share of the epochs of the schedule, late from this share on."""

ALL = (
    "Supported if the 95 % interval of each part lies on the claimed side of 0; refuted if "
    "that of any part, at 95 % shared between the parts, lies on the other; else "
    "inconclusive."
)
FLOOR = f"(log10 of its size, at least {LEAST_CHANGE:g} nats)"

CLAIMS: dict[str, Claim] = {}


def one_number(side: str, other: str) -> str:
    """The rule of a claim about one difference, without its first word."""
    return (
        f"if the whole 95 % interval of the difference lies {side}, refuted if it lies {other}, "
        "else inconclusive."
    )


def claim(
    id: str, *, sentence: str, statistic: str, rule: str, figures: tuple[str, ...]
) -> Callable[[Callable[[pd.DataFrame], Evidence]], Claim]:
    """Declare a claim: the function takes the table of `outcomes.outcomes` and says which runs
    decide."""

    def declare(function: Callable[[pd.DataFrame], Evidence]) -> Claim:
        CLAIMS[id] = Claim(id, sentence, statistic, rule, figures, function)
        return CLAIMS[id]

    return declare


@claim(
    "C1",
    sentence=(
        "Keeping large-magnitude filters gives a pruned model whose loss falls faster than with "
        "magnitude-agnostic measures."
    ),
    statistic=(
        "Training loss after the last cut, averaged over the epochs that remain (the area under "
        "the curve per epoch): mean over the magnitude-based measures minus mean over the "
        "magnitude-agnostic ones, paired by setting and seed. Beside it: epochs until the "
        "training loss is down to the dense control's after half of its epochs (a run that "
        "never gets there counts with all epochs that remain)."
    ),
    rule=f"Supported {one_number('below 0', 'above 0')}",
    figures=("loss_after_cut", "epochs_to_threshold", "convergence"),
)
def faster_loss(table: pd.DataFrame) -> Evidence:
    """C1, epochs to a threshold, and the same difference against each agnostic measure and each
    control alone."""
    label = "training loss, magnitude-based minus magnitude-agnostic"
    decides = Criterion(label, "nats", -1, pair(table, "loss_after_cut", MAGNITUDE, AGNOSTIC))
    others = [name for name in (*AGNOSTIC, "random") if (table["measure"] == name).any()]
    details = {
        "epochs to the threshold, magnitude-based minus magnitude-agnostic": (
            pair(table, "epochs_to_threshold", MAGNITUDE, AGNOSTIC),
            "epochs",
        ),
        "share of runs that get there, magnitude-based minus magnitude-agnostic": (
            pair(table, "reached", MAGNITUDE, AGNOSTIC),
            "of runs",
        ),
    }
    for name in others:
        single = pair(table, "loss_after_cut", MAGNITUDE, [name])
        details[f"training loss, magnitude-based minus {name}"] = (single, "nats")
    return Evidence((decides,), details)


@claim(
    "C2",
    sentence=(
        "Loss preservation removes the slowest-changing parameters, so it preserves first-order "
        "dynamics (the loss, and the speed of the squared parameter norm) across a cut, and "
        "suits minimally trained models."
    ),
    statistic=(
        "(a) Rank correlation, in each run of `loss`, of the score of the filters that stay "
        "with how much their squared norms change in the epoch after the cut. (b) Change of the "
        f"loss at a cut, (c) change of d|θ|²/dt = -2 θ·g at a cut {FLOOR}: loss minus mean over "
        "the measures of orders 0 and 2, paired by setting and seed. Beside them: the identity "
        "d|θ|²/dt = -2 θ·g along dense training, and early cuts alone."
    ),
    rule=f"(a) is claimed to be above 0, (b) and (c) below. {ALL}",
    figures=("movement", "loss_change", "gradient_flow"),
)
def first_order(table: pd.DataFrame) -> Evidence:
    """C2, the identity behind it in the dense control, and what `loss` does for models cut
    early."""
    early = table[table["first_cut"] <= EARLY * table["epochs"]]
    loss = ["loss"]
    return Evidence(
        (
            Criterion(
                "rank correlation of score and movement", RHO, +1, pair(table, "moved", loss)
            ),
            Criterion(
                "change of loss, loss minus orders 0 and 2",
                "decades",
                -1,
                pair(table, "loss_shift", loss, OTHER_ORDERS),
            ),
            Criterion(
                "change of d|θ|²/dt, loss minus orders 0 and 2",
                "decades",
                -1,
                pair(table, "order1_shift", loss, OTHER_ORDERS),
            ),
        ),
        {
            "rank correlation over epochs of the change of |θ|² with -2 lr θ·g, dense control": (
                dense(table, "norm_identity"),
                RHO,
            ),
            "rank correlation of score and movement, magnitude": (
                pair(table, "moved", ["magnitude"]),
                RHO,
            ),
            "rank correlation of score and movement, loss minus magnitude": (
                pair(table, "moved", loss, ["magnitude"]),
                RHO,
            ),
            "change of loss at early cuts, loss minus orders 0 and 2": (
                pair(early, "loss_shift", loss, OTHER_ORDERS),
                "decades",
            ),
            "final accuracy after early cuts, loss minus orders 0 and 2": (
                pair(early, "final_accuracy", loss, OTHER_ORDERS),
                "accuracy",
            ),
        },
    )


@claim(
    "C3",
    sentence=(
        "Biased by a magnitude heuristic, loss preservation still preserves the loss, and "
        "magnitude-based measures do so late in training."
    ),
    statistic=(
        f"Change of the loss at a cut {FLOOR}: (a) loss_biased, (b) mean over the "
        f"magnitude-based measures, in settings whose first cut is not before {LATE:.0%} of the "
        "epochs; each minus the midpoint between loss and random, paired by setting and seed. "
        "Below 0: nearer to what loss does than to what chance does. Beside it: rank "
        "correlations with `oracle`."
    ),
    rule=f"Both are claimed to be below 0. {ALL}",
    figures=("loss_change", "agreement"),
)
def biased_loss(table: pd.DataFrame) -> Evidence:
    """C3, magnitude late against early, and what the scores have in common with the truth and with
    each other."""
    early = table[table["first_cut"] <= EARLY * table["epochs"]]
    late = table[table["first_cut"] >= LATE * table["epochs"]]
    middle = ["loss", "random"]
    by_magnitude = pair(late, "loss_shift", MAGNITUDE, middle)
    if late.empty:
        by_magnitude = replace(
            by_magnitude, notes=(f"no cut at or after {LATE:.0%} of the epochs",)
        )
    details = {
        "change of loss, loss_biased minus loss": (
            pair(table, "loss_shift", ["loss_biased"], ["loss"]),
            "decades",
        ),
        "change of loss, loss minus random": (
            pair(table, "loss_shift", ["loss"], ["random"]),
            "decades",
        ),
        "change of loss at early cuts, magnitude-based minus midpoint": (
            pair(early, "loss_shift", MAGNITUDE, middle),
            "decades",
        ),
    }
    for name in ("loss", "loss_biased", "taylor", "magnitude", "grasp"):
        details[f"rank correlation of {name} and oracle"] = (common(table, name, "oracle"), RHO)
    details["rank correlation of loss and loss_biased"] = (
        common(table, "loss", "loss_biased"),
        RHO,
    )
    details["rank correlation of loss and magnitude at late cuts"] = (
        common(late, "loss", "magnitude"),
        RHO,
    )
    details["rank correlation of loss and magnitude at early cuts"] = (
        common(early, "loss", "magnitude"),
        RHO,
    )
    return Evidence(
        (
            Criterion(
                "loss_biased minus midpoint of loss and random",
                "decades",
                -1,
                pair(table, "loss_shift", ["loss_biased"], middle),
            ),
            Criterion(
                "magnitude-based, late, minus midpoint of loss and random",
                "decades",
                -1,
                by_magnitude,
            ),
        ),
        details,
    )


@claim(
    "C4",
    sentence=(
        "Increasing the gradient norm by pruning (GraSP) removes the parameters that raise the "
        "loss most."
    ),
    statistic=(
        "Change of the probe loss at the cuts of a run (summed, with its sign): grasp minus (a) "
        "the mean over loss and grad_preservation, (b) random, paired by setting and seed. "
        "Beside it: the rank correlation of θ·Hg with θ·g over the epochs of dense training, "
        "and of the scores of grasp and taylor."
    ),
    rule=f"Both are claimed to be above 0. {ALL}",
    figures=("loss_change", "cut_changes", "order_products", "agreement"),
)
def raised_loss(table: pd.DataFrame) -> Evidence:
    """C4, against each measure alone, and whether the second order follows the first."""
    raised, preserving = ["grasp"], ("loss", "grad_preservation")
    others = [name for name in (*MAGNITUDE, *preserving) if (table["measure"] == name).any()]
    details = {
        "rank correlation over epochs of θ·Hg and θ·g, dense control": (
            dense(table, "order_agreement"),
            RHO,
        ),
        "rank correlation of grasp and taylor": (common(table, "grasp", "taylor"), RHO),
        "rank correlation of grasp and loss": (common(table, "grasp", "loss"), RHO),
        "rank correlation of grasp and oracle": (common(table, "grasp", "oracle"), RHO),
    }
    for name in others:
        details[f"change of loss, grasp minus {name}"] = (
            pair(table, "loss_change", raised, [name]),
            "nats",
        )
    return Evidence(
        (
            Criterion(
                "change of loss, grasp minus loss and grad_preservation",
                "nats",
                +1,
                pair(table, "loss_change", raised, preserving),
            ),
            Criterion(
                "change of loss, grasp minus random",
                "nats",
                +1,
                pair(table, "loss_change", raised, ["random"]),
            ),
        ),
        details,
    )


@claim(
    "C5",
    sentence=(
        "Preserving the gradient norm keeps second-order dynamics and gives better models than "
        "increasing it."
    ),
    statistic=(
        "Test accuracy after the last epoch: grad_preservation minus grasp, paired by setting "
        "and seed. Beside it: what the cut does to |g| and to d²|θ|²/dt²."
    ),
    rule=f"Decided on accuracy: supported {one_number('above 0', 'below 0')}",
    figures=("final_accuracy", "gradient_change"),
)
def preserved_gradient(table: pd.DataFrame) -> Evidence:
    """C5, and whether grad_preservation really changes |g| and the second-order dynamics less,
    grasp raising |g|."""
    kept, raised = ["grad_preservation"], ["grasp"]
    label = "final accuracy, grad_preservation minus grasp"
    return Evidence(
        (Criterion(label, "accuracy", +1, pair(table, "final_accuracy", kept, raised)),),
        {
            "change of log10 |g| at a cut, grad_preservation minus grasp": (
                pair(table, "grad_norm_change", kept, raised),
                "decades",
            ),
            "absolute change of log10 |g| at a cut, grad_preservation minus grasp": (
                pair(table, "grad_norm_shift", kept, raised),
                "decades",
            ),
            "absolute change of d²|θ|²/dt² at a cut, grad_preservation minus grasp": (
                pair(table, "second_order_shift", kept, raised),
                "nats",
            ),
            "training loss after the cut, grad_preservation minus grasp": (
                pair(table, "loss_after_cut", kept, raised),
                "nats",
            ),
        },
    )


def dense(table: pd.DataFrame, value: str) -> Pairs:
    """A number of the dense controls, by themselves."""
    return pair(table[table["measure"] == DENSE], value, [DENSE])


def common(table: pd.DataFrame, one: str, other: str) -> Pairs:
    """The rank correlation of two measures at the cuts of the runs that recorded both, whatever
    they were cut by."""
    column = AGREEMENT + "|".join(sorted((one, other)))
    if column not in table:
        return pair(table.head(0).assign(**{column: 0.0}), column, [one])
    rows = table.loc[
        table[column].notna(), ["group", "task", "seed", "ablation", "outcome", column]
    ]
    each = rows.groupby(["task", "seed"], sort=False)[column].transform("mean")
    first = rows.assign(measure=one, **{column: each}).drop_duplicates(["task", "seed"])
    return pair(first, column, [one])


def judge_all(
    frames: Frames, seed: int = 0, claims: Sequence[Claim] | None = None
) -> list[Judgement]:
    """Decide every claim on the finished runs. The same frames and seed give the same numbers."""
    table = outcomes(frames)
    return corrected([judge(claim, table, seed) for claim in claims or CLAIMS.values()])
