"""Who holds a lock, as others see it."""

import pytest

from benchmark import locks
from benchmark.locks import held, is_held


def test_a_lock_is_seen_also_in_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    assert not is_held(path)
    with held(path, wait=False):
        assert is_held(path)
        monkeypatch.setattr(locks, "held", _forbidden)
        assert is_held(path)
        monkeypatch.undo()
    path.touch()  # its owner was killed
    monkeypatch.setattr(locks, "held", _forbidden)
    assert not is_held(path)


def _forbidden(*_, **__):
    raise PermissionError


def test_a_lock_is_given_back_where_its_file_cannot_be_removed(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.touch()
    monkeypatch.setattr(type(path), "unlink", _forbidden)
    with pytest.raises(PermissionError), held(path, wait=False):
        pass
    assert not locks._is_locked(path)
    assert not is_held(path)
