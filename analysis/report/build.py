"""The report: a folder with a self-contained page, its figures as files, its tables as CSV, and
claims.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from analysis import stats
from analysis.claims import judge_all
from analysis.leaderboard import Board, leaderboards
from analysis.outcomes import lost_counts
from analysis.quantities import SUMMARISED
from analysis.report import style, tables
from analysis.report.figures import FIGURES, Plot, ranks, save
from analysis.report.page import make_folders, write_page
from analysis.report.page.explorer import compressed, explorer_data
from analysis.runs.frames import UNFINISHED, Frames, dense_controls
from analysis.runs.load import load
from analysis.runs.pull import Pull
from analysis.settings import DENSE, Completeness, completeness, named, scales
from analysis.verdicts import Judgement
from benchmark import __version__
from benchmark.config import DEFAULTS, RunConfig
from benchmark.files import write_json
from benchmark.processes import spawning
from benchmark.provenance import commit
from benchmark.record import FINISHED

MOST_LETTERS = 100
"""Letters of a group in the name of a file."""
PARALLEL = 200
"""From this many runs on, figures are drawn by several processes."""
LIBRARIES = ("numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Report:
    """What was written."""

    index: Path
    boards: list[Board]
    judgements: list[Judgement]
    completeness: Completeness


@dataclass(frozen=True)
class Drawing:
    """A figure on the page."""

    name: str
    """Of the figure, the same in every group."""
    anchor: str
    title: str
    caption: str
    image: str
    """As a data URI."""


def build(
    source: str | Sequence[str],
    out: Path,
    grid: Sequence[RunConfig] | None = None,
    pull: Pull | None = None,
) -> Report:
    """Write the report of a source (or several) into the folder `out`; with a grid, of the grid's
    runs alone.

    Raises `UserError` if the source has no finished run (of the grid), or `out` cannot be a folder.
    """
    frames = load(source, pull)
    whole = completeness(frames, grid)
    frames = named(frames.of(grid))
    make_folders(out, out / "figures", out / "tables")
    for old in [*(out / "figures").glob("*.png"), *(out / "figures").glob("*.svg")]:
        old.unlink()
    with _drawing(frames, out / "figures") as drawings:
        return _write(frames, whole, out, drawings)


def _write(
    frames: Frames, whole: Completeness, out: Path, drawings: Iterable[tuple[str, list[Drawing]]]
) -> Report:
    judgements, boards = judge_all(frames), leaderboards(frames)
    facts = provenance(frames)
    write_json(
        out / "claims.json",
        {"claims": [item.to_dict() for item in judgements], "provenance": facts},
    )
    files = {
        "leaderboard": tables.leaderboard(boards),
        "summary": tables.summary(frames),
        "runs": tables.runs(frames),
        "cuts": frames.cuts,
        "densities": tables.densities(frames),
        "missing": whole.missing,
        "verdicts": tables.verdicts(judgements),
    }
    for name, table in files.items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False)
    index = write_page(
        out / "index.html",
        "report.html",
        judgements=judgements,
        boards=[(board, _rank_plot(board, out / "figures")) for board in boards],
        rank_caption=ranks.caption,
        explorer=explorer_data(frames),
        drawings=dict(drawings),
        summary=list(files["summary"].itertuples(index=False)),
        runs=compressed(tables.run_rows(files["runs"], frames.cuts)),
        run_count=len(files["runs"]),
        facts=what_was_run(frames),
        quantities=SUMMARISED,
        coverage=tables.coverage(frames, whole),
        completeness=whole,
        set_aside=frames.set_aside,
        provenance=facts,
        files=sorted(files),
    )
    return Report(index, boards, judgements, whole)


def _rank_plot(board: Board, folder: Path) -> str:
    """Draw and write the figure of a leaderboard; returns it as a data URI."""
    return save(ranks.rank_plot(board), folder / f"leaderboard-{board.budget}")


def provenance(frames: Frames) -> dict:
    """Where the numbers come from."""
    finished = frames.finished()
    return {
        "source": frames.source,
        "runs": len(finished),
        "unfinished": int((frames.runs["outcome"] == UNFINISHED).sum()),
        "diverged or collapsed": int((finished["outcome"] != FINISHED).sum()),
        "run ids (digest)": frames.digest(),
        "nets and data": nets_and_data(frames),
        "data (digest)": sorted(set((finished["dataset"] + " " + finished["data"]).str.strip())),
        "rules": sorted(set(finished["rules"].tolist())),
        "trained with": sorted(set(finished["versions"]) - {""}),
        "commit of the runs": sorted(set(finished["commit"]) - {""}),
        "trained on": sorted(
            set(map(_machine, finished["device"], finished["processor"], finished["threads"]))
        ),
        "hours of training": round(training_seconds(frames) / 3600, 3),
        "analysed with": [
            f"flowprune {__version__}",
            f"python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in LIBRARIES),
        ],
        "commit of the analysis": commit() or "unknown (not a git checkout)",
        "intervals": (
            f"{stats.LEVEL:.0%}, Student's t over seeds; each claim at its own level, and beside "
            "it corrected for the number of claims (Holm)"
        ),
    }


ALWAYS = ("rounds", "ratio", "budget")
FIELDS = (*ALWAYS, "allocation", "grouping", "protocol", "ablation")
"""The fields of pruned runs that the header of the page tells: always, or where they are not the
default."""


def what_was_run(frames: Frames) -> dict[str, str]:
    """What the runs are, in words: the header of the page."""
    runs = frames.finished()
    pruned = runs[runs["measure"] != DENSE]
    lost = lost_counts(runs["outcome"]).items()
    counts = [f"{len(runs)} finished", *(f"{count} of them {name}" for name, count in lost)]
    if waiting := len(frames.runs) - len(runs):
        counts.append(f"{waiting} unfinished")
    values = {name: sorted(set(pruned[name].tolist())) for name in FIELDS}
    fields = [
        f"{name} {', '.join(map(str, found))}"
        for name, found in values.items()
        if name in ALWAYS or found != [DEFAULTS[name]]
    ]
    facts = {
        "Source": frames.source,
        "Runs": ", ".join(counts),
        "Nets and data": "; ".join(nets_and_data(frames)),
        "Measures": ", ".join(map(style.name, style.in_order(set(runs["measure"])))),
        "Cuts": "; ".join([", ".join(pruned["timing"].unique()), *fields]),
    }
    return facts if len(pruned) else {name: facts[name] for name in facts if name != "Cuts"}


def training_seconds(frames: Frames) -> float:
    """Seconds of training, tests and cuts of all finished runs. A dense phase counts once, however
    many runs share it."""
    runs, history = frames.finished().set_index("run_id"), frames.history
    at_cut = history[
        history["epoch"] == history["run_id"].map(runs["first_cut"].where(runs["first_cut"] > 0))
    ]
    shared = at_cut.set_index("run_id")["time/seconds"].reindex(runs.index).fillna(0.0)
    controls = dense_controls(frames.finished())
    elsewhere = shared[~runs["dense_id"].isin(controls.index)]
    return float((runs["seconds"] - shared).sum() + elsewhere.groupby(runs["dense_id"]).max().sum())


def nets_and_data(frames: Frames) -> list[str]:
    """The scale of the runs: a text for each net, width, data set, number of images and epochs."""
    found = scales(frames.finished())
    counts = {scale: runs["seed"].nunique() for scale, runs in found.items()}
    return [f"{scale}, {count} seed{'s' * (count != 1)}" for scale, count in counts.items()]


def _machine(device: str, processor: str, threads: float) -> str:
    if not processor:  # flowprune 0.1 did not record it
        return device
    return f"{device}: {processor}, {threads:.0f} thread{'s' * (threads != 1)}"


@contextmanager
def _drawing(frames: Frames, folder: Path) -> Iterator[Iterator[tuple[str, list[Drawing]]]]:
    """The figures of each group, which are also written as files. Of many runs they are drawn
    by other processes, while the caller goes on."""
    groups = frames.finished().groupby("group", sort=False)
    parts = {group: named(frames.only(runs["run_id"])) for group, runs in groups}
    workers = min(len(parts), os.cpu_count() or 1)
    arguments = [list(parts.values()), [folder / name for name in file_names(list(parts))]]
    if workers < 2 or len(frames.runs) < PARALLEL:
        yield zip(parts, map(_draw_group, *arguments), strict=True)
        return
    with ProcessPoolExecutor(workers, mp_context=spawning()) as pool:
        yield zip(parts, pool.map(_draw_group, *arguments), strict=True)


def _draw_group(frames: Frames, place: Path) -> list[Drawing]:
    """Draw and write all figures. `place`: their folder, and the end of their names."""
    drawn = ((plot, plot.draw(frames)) for plot in FIGURES.values())
    return [_save(plot, canvas, frames, place) for plot, canvas in drawn if canvas is not None]


def _save(plot: Plot, canvas: Figure, frames: Frames, place: Path) -> Drawing:
    anchor = f"{plot.name}-{place.name}"
    image = save(canvas, place.with_name(anchor))
    return Drawing(plot.name, anchor, plot.title, plot.caption_for(frames), image)


def file_names(groups: Sequence[str]) -> list[str]:
    """Groups' names as parts of file names, such as `vgg13-digits`; numbered where they would be
    the same."""
    names: list[str] = []
    for group in groups:
        text = group.replace(" on ", "-")
        text = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
        text = (
            text
            if len(text) <= MOST_LETTERS
            else text[: MOST_LETTERS // 2] + "..." + text[-MOST_LETTERS // 2 :]
        )
        same = sum(name == text or name.startswith(f"{text}~") for name in names)
        names.append(f"{text}~{same + 1}" if same else text)
    return names
