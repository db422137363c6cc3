"""Published studies: verdicts follow from the records, every cell of their grids is there, and the
pages show their numbers."""

import json
import re

import pytest

from benchmark.record import FINISHED
from sweeps.grid import load as grid
from tests.support.make_results import BLOCK, PAGES, ROOT, filled, frames_of, judged, published

MIB = 1 << 20
GRID = re.compile(r"analysis publish \S+ --out (\S+)((?: --grid \S+)+)")
COMMANDS = {
    study: flags.split()[1::2]
    for study, flags in GRID.findall((ROOT / "docs" / "results.md").read_text())
}
"""{study: its grids}, by the commands of the page."""


@pytest.mark.parametrize("study", published())
def test_verdicts_follow_from_the_records(study):
    kept = json.loads((ROOT / study / "claims.json").read_text())["claims"]
    ours = [json.loads(json.dumps(item.to_dict())) for item in judged(study)]
    for one, other in zip(ours, kept, strict=True):
        assert one["verdict"] == other["verdict"]
        for part in ("primary", "checks", "beside"):
            for number, stored in zip(one[part], other[part], strict=True):
                assert number["label"] == stored["label"]
                for key in ("n", "effect", "interval", "p", "power", "smallest"):
                    assert number[key] == pytest.approx(stored[key])


@pytest.mark.parametrize("study", published())
def test_every_cell_of_its_grids_is_there(study):
    runs = frames_of(study).runs
    expected = {config.run_id for file in COMMANDS[study] for config in grid(ROOT / file).configs}
    assert expected == set(runs["run_id"])
    assert set(runs["outcome"]) == {FINISHED}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_show_its_numbers(page):
    text = page.read_text()
    assert filled(text) == text, "python -m tests.support.make_results writes them"
    assert BLOCK.search(text)


def test_there_is_something_and_it_is_small():
    assert published()
    assert sum(path.stat().st_size for path in (ROOT / "results").rglob("*")) < 6 * MIB
