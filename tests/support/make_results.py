"""`python -m tests.support.make_results`: write the numbers of results/ into docs/results.md and
README.md.

A table stands between a comment that says what it shows, `<!-- claims results/STUDY -->`, and
`<!-- end -->`. All other text is written by hand.
"""

import re
from functools import cache
from pathlib import Path

from analysis.claims import judge_all
from analysis.leaderboard import RIVALS, Board, leaderboards
from analysis.quantities import SUMMARISED
from analysis.report import tables
from analysis.report.text import (
    answer,
    mean_text,
    number_text,
    short,
    shortfall,
    smallest_text,
)  # fmt: skip
from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.settings import named
from analysis.verdicts import NOT_TESTED, Judgement

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
SHOWN = [item for item in SUMMARISED if item.key in ("final_accuracy", "loss_after_cut")]
WORDS = ("wins", "ties", "losses")
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
                rows.append((*row, number.n, smallest_text(number), short(number.power)))
                said = ""
    columns = (
        "claim", "number", "effect [95 % interval]", "pairs", "smallest detectable effect",
        "power for the measured effect",
    )  # fmt: skip
    return table(columns, rows)


def beside(study: str) -> str:
    """The numbers that stand beside the claims and decide nothing."""
    rows = [
        (item.claim.id, number.label, number_text(number), number.n)
        for item in judged(study)
        for number in item.beside
        if number.n
    ]
    return table(("claim", "number", "effect [95 % interval]", "pairs"), rows)


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


@cache
def board_of(study: str) -> Board:
    """The leaderboard at equal MACs, or else at equal filters."""
    return leaderboards(frames_of(study))[0]


def best(study: str) -> str:
    """Which measure is first in the leaderboard of a study, in words."""
    return f"Leaderboard of {study.removeprefix('results/')}: {answer(board_of(study))}"


def leaderboard(study: str) -> str:
    """Ranks by final accuracy, and settings won, tied and lost."""
    board = board_of(study)
    rivals = [name for name in RIVALS if name in set(board.table["measure"])]
    rows = []
    for row in board.table.to_dict("records"):
        rank = [short(row[f"rank{end}"]) for end in ("", "_low", "_high")]
        counts = (" / ".join(f"{row[f'{word}_{name}']:.0f}" for word in WORDS) for name in rivals)
        rows.append((f"`{row['measure']}`", f"{rank[0]} [{rank[1]}, {rank[2]}]", *counts))
    against = (f"settings won / tied / lost against `{name}`" for name in rivals)
    return table(("measure", "mean rank [95 % interval]", *against), rows)


def verdicts(studies: str) -> str:
    """The verdict on each claim that one of several studies tests, with the number that decides."""
    names = studies.split()
    rows = []
    for items in zip(*map(judged, names), strict=True):
        if any(item.verdict != NOT_TESTED for item in items):
            rows.append((f"{items[0].claim.id}: {items[0].claim.plain}", *map(verdict, items)))
    return table(("claim", *(name.removeprefix("results/") for name in names)), rows)


def verdict(item: Judgement) -> str:
    """A verdict, its number, and what that lacks to decide."""
    if item.verdict == NOT_TESTED:
        return item.verdict
    lacking = shortfall(item.number)
    return f"**{item.verdict}**: {number_text(item.number)}" + (f". {lacking}" if lacking else "")


def table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    """Markdown."""
    lines = (" | ".join(map(str, row)).replace("|θ|", "\\|θ\\|") for row in (columns, *rows))
    head, *body = (f"| {line} |" for line in lines)
    return "\n".join((head, "|---" * len(columns) + "|", *body))


KINDS = {kind.__name__: kind for kind in (best, claims, beside, measures, leaderboard, verdicts)}


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
