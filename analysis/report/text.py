"""Numbers as people read them, in tables and on the pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.leaderboard import Board
from analysis.pairs import SEEDS
from analysis.quantities import ACCURACY, Quantity
from analysis.report import style
from analysis.verdicts import NOT_TESTED, Judgement, Number


def _unit(number: Number) -> tuple[float, str]:
    """What a number is multiplied by for people to read, and its unit then."""
    return (100, "pp") if number.unit == ACCURACY else (1, number.unit)


def smallest_text(number: Number) -> str:
    """The smallest detectable effect, with its unit; a dash if it is not known."""
    scale, unit = _unit(number)
    return short(None) if number.smallest is None else f"{short(scale * number.smallest)} {unit}"


def number_text(number: Number) -> str:
    """A difference and its interval, accuracies in percentage points."""
    if number.effect is None:
        return "no data"
    scale, unit = _unit(number)
    if number.interval is None:
        return f"{signed(number.effect * scale)} {unit} (no interval)"
    low, high = (signed(bound * scale) for bound in number.interval)
    return f"{signed(number.effect * scale)} {unit} [{low}, {high}]"


def finding(item: Judgement) -> str:
    """What came out of a claim, as a sentence: its verdict, and the number that decided."""
    number, verdict = item.number, item.verdict.capitalize()
    if item.verdict == NOT_TESTED:
        return f"{verdict}: it needs {item.claim.needs}."
    said = f"{number.label} is {number_text(number)}"
    claimed = f"claimed to be {'above' if number.sign > 0 else 'below'} 0"
    against = "a check speaks against it, " if number in item.checks else ""
    text = f"{verdict}: {against}{said}, {claimed}."
    lacking = shortfall(number)
    return f"{text} {lacking}." if lacking else text


def shortfall(number: Number) -> str:
    """What a number lacks to decide a claim, in words; empty if it decides."""
    if number.seeds < SEEDS:
        return f"A verdict needs {SEEDS} seeds; this number has {number.seeds}"
    if number.side == 0 and number.smallest is not None:
        return f"The smallest detectable effect is {smallest_text(number)} (80 % power)"
    return ""


def answer(board: Board) -> str:
    """Which measure is first in a leaderboard, in plain words."""
    first, *_ = board.table.itertuples()
    best = board.table.loc[board.table["rank"] == first.rank, "measure"].tolist()
    has = "has" if len(best) == 1 else "share"
    settings = f"{len(board.settings)} setting{'s' * (len(board.settings) > 1)}"
    least, most = board.seeds
    seeds = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"{' and '.join(best)} {has} the best mean rank of {len(board.table)} measures, "
        f"{short(first.rank)}{_span(first)}, over {settings} with {seeds} "
        f"seed{'s' * (seeds != '1')} each."
    )


def board_sentence(board: Board) -> str:
    """What a leaderboard shows, in plain words."""
    said = (
        f"{answer(board)} The runs are of {'; '.join(board.scales)}. Wins, ties and losses count "
        "settings in which the 95 % interval of the difference in accuracy is above, around or "
        "below 0."
    )
    if board.left_out:
        lacking = ", ".join(
            f"{name} ({count} of {len(board.settings)} settings)"
            for name, count in sorted(board.left_out.items())
        )
        said += f" Not ranked, because runs are missing: {lacking}."
    return said


def _span(row: NamedTuple) -> str:
    return "" if np.isnan(row.rank_low) else f" [{short(row.rank_low)}, {short(row.rank_high)}]"


def difference_text(number: Number) -> str:
    """A difference of two sources: a plain 0 where both agree in every pair."""
    same = number.effect == 0 and number.interval in (None, (0, 0))
    return "0" if same else number_text(number)


def mean_text(row: NamedTuple, quantity: Quantity) -> str:
    """A mean and its interval in a row of `tables.summary`, accuracies in percent."""
    mean, low, high = (
        getattr(row, f"{quantity.key}{end}") * quantity.scale for end in ("", "_low", "_high")
    )
    return short(mean) if np.isnan(low) else f"{short(mean)} [{short(low)}, {short(high)}]"


def signed(value: float) -> str:
    """Three significant digits with a sign."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def short(value: float | None) -> str:
    """Three significant digits; a dash for None and NaN."""
    if value is None or np.isnan(value):
        return "\N{EN DASH}"
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def source_name(source: str) -> str:
    """The last part of a source's path; for a folder called `runs`, the folder above it too."""
    parts = [name.removeprefix("wandb:").rstrip("/").split("/") for name in source.split(" + ")]
    short = (part[-2:] if part[-1] == "runs" or "wandb:" in source else part[-1:] for part in parts)
    return " + ".join("/".join(filter(None, names)) for names in short)


def plain(value: float | None) -> str:
    """A number to sort by; empty for None and NaN."""
    return "" if value is None or np.isnan(value) else f"{value:.6g}"


FILTERS = {
    "answer": answer,
    "board_sentence": board_sentence,
    "budget": {"macs": "MACs", "params": "parameters", "filters": "filters"}.get,
    "number": number_text,
    "difference": difference_text,
    "finding": finding,
    "mean": mean_text,
    "short": short,
    "shortfall": shortfall,
    "smallest": smallest_text,
    "slug": lambda text: text.replace(" ", "-"),
    "plain": plain,
    "source_name": source_name,
    "measure": style.name,
    "words": lambda name: name.replace("_", " "),
}
"""The filters of the templates."""
