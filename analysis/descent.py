"""The figures of a check of gradient flow, from the file that `python -m benchmark.descent`
writes."""

from __future__ import annotations

from pathlib import Path

from analysis.report.figures.descent import Sheet, sheets
from analysis.report.figures.plot import save
from analysis.report.page import make_folders
from benchmark.errors import UserError
from benchmark.files import read_json

PARTS = {"config", "followed", "single", "training_mode", "filters"}


def draw(file: Path, out: Path) -> list[Sheet]:
    """Write each figure of `descent.json` as PNG and SVG, and `descent.md` with all captions, into
    the folder `out`. Raises `UserError` for a file that is missing or of another kind."""
    record = read_json(file)
    if missing := sorted(PARTS - record.keys()):
        raise UserError(f"{file} was not written by benchmark.descent: it lacks {missing[0]}")
    try:
        drawn = sheets(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file} cannot be drawn ({type(error).__name__}: {error})") from None
    make_folders(out)
    for sheet in drawn:
        save(sheet.canvas, out / sheet.name)
    (out / "descent.md").write_text(_text(record, drawn), encoding="utf-8")
    return drawn


def _text(record: dict, drawn: list[Sheet]) -> str:
    config = record["config"]
    net = (
        f"{config['arch']} at width {config['width']:g} on {config['dataset']}, after "
        f"{config['epochs']} epochs, seed {config['seed']}; {config['probe_samples']} images"
    )
    parts = [f"## {s.title}\n\n![]({s.name}.png)\n\n{s.caption}\n" for s in drawn]
    return "\n".join([f"# Gradient flow and gradient descent\n\n{net}.\n", *parts])
