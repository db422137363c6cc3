"""What is published of a study: the archive of its runs, and the results of its report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analysis.report.build import Report, build
from analysis.report.page import make_folders
from analysis.runs import archive
from analysis.runs.load import load
from benchmark.config import RunConfig


def publish(
    source: str | Sequence[str], out: Path, grid: Sequence[RunConfig] | None = None
) -> Report:
    """Write the finished runs of one or several sources (of a grid alone, if one is given) as an
    archive into `out`, beside it claims.json and the figures (PNG) of their report.

    Raises `UserError` as `load` and `build` do.
    """
    frames = load(source).of(grid)
    make_folders(out)
    archive.write(frames.only(frames.finished()["run_id"]), out)
    with tempfile.TemporaryDirectory() as folder:
        report = build(str(out), Path(folder), grid)
        shutil.rmtree(out / "figures", ignore_errors=True)
        pictures = shutil.ignore_patterns("*.svg")
        shutil.copytree(Path(folder, "figures"), out / "figures", ignore=pictures)
        shutil.copy(Path(folder) / "claims.json", out)
    return report
