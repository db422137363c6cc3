"""`python -m tests.support.make_results`: write the numbers of results/ into docs/results.md and
README.md.

A table stands between a comment that says what it shows, `<!-- claims results/STUDY -->`, and
`<!-- end -->`. All other text is written by hand and has no number of a result.
"""

import re
from functools import cache
from pathlib import Path

from analysis.claims import judge_all
from analysis.leaderboard import leaderboards
from analysis.quantities import SUMMARISED
from analysis.report import tables
from analysis.report.text import (
    board_sentence,
    maybe,
    mean_text,
    number_text,
    short,
    smallest_text,
)
from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.settings import named
from analysis.verdicts import NOT_TESTED, SEEDS, Judgement

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
SHOWN = [item for item in SUMMARISED if item.key in ("final_accuracy", "loss_after_cut")]
BLOCK = re.compile(r"(<!-- (\w+) (results/\S.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def frames_of(study: str) -> Frames:
    return named(load(str(ROOT / study)))


@cache
def judged(study: str) -> tuple[Judgement, ...]:
    return tuple(judge_all(frames_of(study)))


def claims(study: str) -> str:
    """The primary numbers and checks of the claims that a study tests."""
    rows = []
    for item in judged(study):
        said = f"**{item.claim.id} {item.verdict}**"
        numbers = [(number, "primary") for number in item.primary]
        numbers += [(number, "check") for number in item.checks]
        for number, role in numbers if item.verdict != NOT_TESTED else ():
            if number.n:
                claimed = "above 0" if number.sign > 0 else "below 0"
                row = (said, f"{number.label} ({role}, claimed {claimed})", number_text(number))
                rows.append((*row, number.n, smallest_text(number), maybe(number.power)))
                said = ""
    columns = (
        "claim", "number", "effect [95 % interval]", "pairs", "seen in 4 of 5 such studies",
        "power for the measured effect",
    )  # fmt: skip
    return table(columns, rows)


def measures(study: str) -> str:
    """Accuracy and loss of each measure in each setting of a study."""
    rows, setting = [], ""
    for row in tables.summary(frames_of(study)).itertuples():
        said = "" if row.setting == setting else row.setting
        setting = row.setting
        means = (mean_text(row, quantity) for quantity in SHOWN)
        kept = (short(100 * value) for value in (row.macs, row.params))
        rows.append((said, f"`{row.measure}`", row.runs, *means, *kept))
    columns = (
        "setting", "measure", "runs", "test accuracy, %", "mean training loss after the cut, nats",
        "MACs left, %", "parameters left, %",
    )  # fmt: skip
    return table(columns, rows)


def leaderboard(study: str) -> str:
    """What the leaderboards of a study show, in words."""
    return "\n\n".join(board_sentence(board) for board in leaderboards(frames_of(study)))


def verdicts(studies: str) -> str:
    """The verdict on each claim that one of several studies tests, with the number that decides."""
    names = studies.split()
    rows = []
    for items in zip(*map(judged, names), strict=True):
        if any(item.verdict != NOT_TESTED for item in items):
            rows.append((f"{items[0].claim.id}: {items[0].claim.plain}", *map(verdict, items)))
    return table(("claim", *(name.removeprefix("results/") for name in names)), rows)


def verdict(item: Judgement) -> str:
    """A verdict and its number; if it is open, how many seeds there are, or what could be seen."""
    if item.verdict == NOT_TESTED:
        return item.verdict
    number, text = item.number, f"**{item.verdict}**: {number_text(item.number)}"
    if number.seeds < SEEDS:
        text += f", {number.seeds} seeds"
    elif number.side == 0:
        text += f", {smallest_text(number)} would be seen"
    return text


def table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    """Markdown."""
    lines = (" | ".join(map(str, row)).replace("|θ|", "\\|θ\\|") for row in (columns, *rows))
    head, *body = (f"| {line} |" for line in lines)
    return "\n".join((head, "|---" * len(columns) + "|", *body))


KINDS = {kind.__name__: kind for kind in (claims, measures, leaderboard, verdicts)}


def filled(text: str) -> str:
    """A page with the numbers of today."""
    return BLOCK.sub(lambda found: f"{found[1]}{KINDS[found[2]](found[3])}\n{found[4]}", text)


def published() -> list[str]:
    """The published studies, as results/STUDY."""
    return [
        str(file.parent.relative_to(ROOT)) for file in sorted(ROOT.glob("results/*/runs.parquet"))
    ]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
