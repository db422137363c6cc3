"""The tutorial works, and the outputs that are stored in it are whole."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from tests.support.make_tutorial import TUTORIAL, execute

ROOT = Path(__file__).parents[2]
LARGEST = 80_000
"""Bytes of the file."""
CHECKS = """
assert accuracy(net) > 0.7
assert (table["share of MACs"] < 0.501).all() and (table["share of MACs"] > 0.45).all()
assert (table["share of parameters"] < 0.5).all()
assert table.loc["loss", "fine-tuned"] > 0.5
assert sum(p.numel() for p in again.parameters()) == cost(small)["net/params"]
assert torch.equal(again(x_test), small(x_test))
assert set(frames.runs["outcome"]) == {"finished"} and len(frames.runs) == 9
assert frames.cuts.groupby("run_id").size().eq(1).all() and len(frames.cuts) == 6
assert len(axes.lines) >= 3
"""


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.long
def test_it_works(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    notebook.cells.append(new_code_cell(CHECKS))
    (tmp_path / "mine").mkdir()
    execute(notebook, tmp_path / "mine")
    stored = code(nbformat.read(TUTORIAL, as_version=4))
    for now, then in zip(code(notebook)[:-1], stored, strict=True):
        assert [kind(output) for output in now.outputs] == [kind(output) for output in then.outputs]


def kind(output):
    """The type of an output and its formats; no cell prints."""
    return output.output_type, sorted(output.data)


def test_its_outputs_are_stored_without_paths():
    text = TUTORIAL.read_text()
    notebook = nbformat.reads(text, as_version=4)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.data for output in cells[-1].outputs)
    assert len(text) < LARGEST
    assert "iopub" not in text  # when cells were executed
    shown = [part for cell in cells for output in cell.outputs for part in texts_of(output)]
    assert shown
    assert not [part for part in shown if re.search(r"(?<![\w.])/\w+/\w", part)]


def texts_of(output):
    """What an output shows but for pictures."""
    data = output.get("data", {}).items()
    return [output.get("text", ""), *(str(value) for form, value in data if "image" not in form)]
