"""The command for a new GPU, tried out on a CPU."""

import json

import pytest

from benchmark.errors import UserError
from benchmark.perf import gpu
from benchmark.perf.gpu import Gpu, execute, tables, with_share


def rows_of(folder):
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def test_all_sections_are_measured_and_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PRECISIONS", ("bf16", "float32"))
    sections = tuple(section for section in gpu.SECTIONS if section != "engine")
    command = Gpu(
        out=tmp_path, device="cpu", tiny=True, archs=("vgg13",), seconds=600, sections=sections
    )
    assert execute(command) == 0
    machine, *rows = rows_of(tmp_path)
    assert machine["device"] == "cpu"
    assert not [row for row in rows if "error" in row]
    found = {row["section"] for row in rows}
    assert found == set(sections) - {"tests"}
    assert all(row["equal"] for row in rows if row["section"] == "equal")
    assert {row["part"] for row in rows if row["section"] == "fixed"} >= {"batches", "test", "flow"}
    assert {row["lanes"] for row in rows if row["section"] == "packed"} == {1, 8}
    assert all(row["images_per_second"] > 0 for row in rows if row["section"] == "rates")
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {section}" in text for section in found)


@pytest.mark.slow
@pytest.mark.long
def test_whole_runs_are_measured_packed_and_in_processes(tmp_path):
    command = Gpu(
        out=tmp_path, device="cpu", tiny=True, archs=("vgg13",), seconds=600, sections=("engine",)
    )
    assert execute(command) == 0
    _, *rows = rows_of(tmp_path)
    assert [(row["kind"], row["way"], row["n"]) for row in rows] == [
        (kind, way, 2) for kind in ("pruned", "dense") for way in ("packed", "processes")
    ]
    assert all(row["images_per_second"] > 0 for row in rows)


def test_no_measurement_begins_after_the_seconds(tmp_path):
    execute(Gpu(out=tmp_path, device="cpu", tiny=True, seconds=1e-9, sections=("ceilings",)))
    assert [row["section"] for row in rows_of(tmp_path)] == ["machine", "out of time"]


def test_an_error_does_not_end_the_visit_but_a_broken_gpu_does(tmp_path, monkeypatch):
    def sections(*errors):
        def fail(error):
            raise error

        yield from (({"number": n}, lambda e=error: fail(e)) for n, error in enumerate(errors))

    command = Gpu(out=tmp_path, device="cpu", tiny=True, sections=("rates",))
    full = RuntimeError("CUDA error: out of memory")
    monkeypatch.setitem(gpu.MEASUREMENTS, "rates", lambda _: sections(ValueError("odd"), full))
    execute(command)
    errors = [row["error"] for row in rows_of(tmp_path)[1:]]
    assert errors == ["ValueError: odd", "RuntimeError: CUDA error: out of memory"]
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setitem(gpu.MEASUREMENTS, "rates", lambda _: sections(broken, full))
    with pytest.raises(UserError, match="the GPU no longer responds"):
        execute(command)
    assert len(rows_of(tmp_path)) == 2


def test_rates_are_set_against_the_model_of_the_card():
    row = {"section": "rates", "arch": "vgg13", "precision": "bf16", "images_per_second": 70_000}
    assert with_share(row, "NVIDIA H200")["share_of_model"] == 0.5
    assert with_share(row, "NVIDIA A100") == row
    assert with_share(row | {"kind": "pruned"}, "NVIDIA H200") == row | {"kind": "pruned"}
    assert "| 0.5 |" in tables([{"section": "machine", "device": "NVIDIA H200"}, row])


def test_a_section_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"sections must be one of tests, rates, .*, got 'speed'"):
        execute(Gpu(out=tmp_path, device="cpu", sections=("speed",)))
