"""Who holds a lock, as others see it."""

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
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "unlink", _forbidden)
        with held(path, wait=False):
            pass
    assert path.exists()
    assert not is_held(path)


def test_a_lock_that_cannot_be_removed_while_it_is_open(tmp_path, monkeypatch):
    """As on Windows: it is released first, and then removed."""
    path, unlink = tmp_path / ".lock", type(tmp_path).unlink

    def unlink_if_free(self, missing_ok=False):
        if is_held(self):
            raise PermissionError(
                13, "The process cannot access the file because it is being used by another process"
            )
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(locks, "WINDOWS", True)
    monkeypatch.setattr(type(path), "unlink", unlink_if_free)
    with held(path, wait=False):
        assert path.exists()
    assert not path.exists()
