"""A record says which data made it, and other data never mix with them."""

import dataclasses

import numpy as np
import pytest
import yaml

from benchmark import data
from benchmark.data import check_finished, digest
from benchmark.errors import UserError
from benchmark.record import Record
from benchmark.run import run
from tests.benchmark.test_data import pixels, write_folder, write_npz
from tests.conftest import tiny_run
from tests.support.commands import command, refusal
from tests.sweeps.test_sweeps import FLAGS

SMALL = {
    "train_limit": 0,
    "batch_size": 10,
    "score_samples": 10,
    "probe_samples": 10,
    "width": 0.0625,
}


class StopError(Exception):
    pass


def replace_npz(root, seed=9):
    """Other images of the same labels."""
    labels, classes = np.arange(20, dtype=np.int64) % 10, [f"c{i}" for i in range(10)]
    np.savez(
        root / "cifar10" / "train.npz", images=pixels(20, seed), labels=labels, classes=classes
    )


@pytest.fixture
def there(options):
    write_npz(options.data / "cifar10")
    return options


def test_it_is_of_everything_that_is_trained_and_tested_on():
    digits = data.load("digits", "unused")
    found = {
        data.digest_of(images)
        for images in (
            digits,
            dataclasses.replace(digits, test_images=digits.test_images[::-1]),
            dataclasses.replace(digits, train_labels=digits.train_labels[::-1]),
            dataclasses.replace(digits, classes=digits.classes[::-1]),
        )
    }
    assert len(found) == 4
    assert digest("digits", "unused") == data.digest_of(digits)


def test_it_is_kept_for_a_state_of_the_files(tmp_path, monkeypatch):
    write_npz(tmp_path / "cifar10")
    first = digest("cifar10", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", lambda *_: pytest.fail("it was known"))
        assert digest("cifar10", tmp_path) == first
    replace_npz(tmp_path)
    assert digest("cifar10", tmp_path) != first


def test_a_data_set_that_is_not_there_yet_has_no_kept_digest(tmp_path):
    assert data.state("cifar10", tmp_path) == ""
    write_npz(tmp_path / "cifar10")
    first = data.state("cifar10", tmp_path)
    assert first
    replace_npz(tmp_path)
    assert data.state("cifar10", tmp_path) not in ("", first)


def test_a_data_set_without_files_is_computed_each_time(tmp_path, monkeypatch):
    monkeypatch.delattr("benchmark.data.digits.files")
    assert data.state("digits", tmp_path) == ""
    assert data.is_present("digits", tmp_path)


def test_replaced_images_are_told(there):
    config = tiny_run(dataset="cifar10", epochs=1, **SMALL)
    summary = run(config, there)
    assert summary["data"] == digest("cifar10", there.data)
    assert run(config, there) == summary
    replace_npz(there.data)
    computed = f"but run {config.run_id} was computed with {summary['data']}"
    said = f"^data set cifar10 has changed: .*, {computed}"
    with pytest.raises(UserError, match=said):
        run(config, there)
    with pytest.raises(UserError, match=said):
        check_finished([Record(there.runs / config.run_id)], there.data)
    (there.data / "cifar10" / "train.npz").unlink()  # without data there is nothing to mix
    assert run(config, there) == summary


def test_replaced_images_never_enter_a_shared_dense_phase(there):
    run(tiny_run(dataset="cifar10", prune_epoch=2, measure="loss", **SMALL), there)
    replace_npz(there.data)
    with pytest.raises(
        UserError,
        match=r"^data set cifar10 has changed: .* checkpoint .*epoch-0002.pt was computed",
    ):
        run(tiny_run(dataset="cifar10", prune_epoch=2, measure="magnitude", **SMALL), there)


def test_replaced_images_never_enter_a_run_that_goes_on(there):
    def stop(progress):
        raise StopError

    config = tiny_run(dataset="cifar10", epochs=2, **SMALL)
    with pytest.raises(StopError):
        run(config, there, stop)
    replace_npz(there.data)
    with pytest.raises(
        UserError,
        match=r"^data set cifar10 has changed: .* checkpoint .*checkpoint.pt was computed",
    ):
        run(config, there)


def test_a_sweep_tells_it_too(there, tmp_path):
    root = write_folder(tmp_path / "images")
    config = tiny_run(
        dataset=f"folder:{root}", measure="none", epochs=1, **SMALL | {"batch_size": 6}
    )
    grid = tmp_path / "g.yaml"
    parameters = {name: {"value": value} for name, value in config.to_dict().items()}
    grid.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    line = ["run", grid, *FLAGS, "--runs", there.runs, "--workers", "1"]
    assert command("sweeps", *line).returncode == 0
    assert command("sweeps", *line).returncode == 0
    (root / "train" / "cat" / "0.png").write_bytes((root / "train" / "dog" / "1.png").read_bytes())
    result = command("sweeps", *line)
    assert refusal(result).startswith(f"data set folder:{root} has changed")
