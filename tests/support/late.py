"""A shared folder that is slow: other machines see a new file two seconds late.

A process belongs to the machine `LATE_MACHINE`, and sees the files under `LATE_FOLDER` as that
machine would: those that another one made less than `SECONDS` ago are not there. Locks are seen at
once, as NFS has it. `environment` gives what makes a Python process, and its children, do so.
"""

import builtins
import hashlib
import io
import os
import time
from pathlib import Path

SECONDS = 2.0
NOTES = "LATE_NOTES"
SITE = "from tests.support.late import install\ninstall()\n"


def environment(machine: str, folder: Path, notes: Path) -> dict[str, str]:
    """Variables of a process on a machine. notes: a folder that says who made which file."""
    notes.mkdir(parents=True, exist_ok=True)
    (notes / "sitecustomize.py").write_text(SITE)
    root = Path(__file__).parents[2]
    return {
        "LATE_MACHINE": machine, "LATE_FOLDER": str(folder), NOTES: str(notes),
        "PYTHONPATH": f"{notes}:{root}",
    }  # fmt: skip


def install() -> None:
    """Make this process see the folder late."""
    machine, folder, notes = (os.environ[n] for n in ("LATE_MACHINE", "LATE_FOLDER", NOTES))
    stat, open_, scandir, listdir, replace = os.stat, os.open, os.scandir, os.listdir, os.replace
    io_open, lstat = io.open, os.lstat

    def note(path: str) -> str:
        return f"{notes}/{hashlib.sha256(path.encode()).hexdigest()}"

    def whole(path: object) -> str:
        if isinstance(path, int):
            return ""
        found = os.path.abspath(os.fsdecode(path))
        watched = found.startswith(folder + "/") and not found.endswith(".lock")
        return found if watched else ""

    def made(path: object) -> None:
        """Note that this machine made a file, unless it was there, and that it sees it."""
        if name := whole(path):
            os.close(open_(f"{note(name)}.{machine}", os.O_CREAT | os.O_WRONLY))
            try:
                descriptor = open_(note(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return
            os.write(descriptor, str(time.time()).encode())
            os.close(descriptor)

    def late(path: object) -> bool:
        name = whole(path)
        if not name or exists(f"{note(name)}.{machine}"):
            return False
        try:
            descriptor = open_(note(name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        when = os.read(descriptor, 100).decode()
        os.close(descriptor)
        return time.time() - float(when or time.time()) < SECONDS

    def exists(path: str) -> bool:
        try:
            stat(path)
        except FileNotFoundError:
            return False
        return True

    def check(path: object) -> None:
        if late(path):
            raise FileNotFoundError(2, "not seen yet", os.fsdecode(path))

    def seen_stat(path, *arguments, **options):
        check(path)
        return stat(path, *arguments, **options)

    def seen_lstat(path, *arguments, **options):
        check(path)
        return lstat(path, *arguments, **options)

    def seen_open(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            made(path)
        else:
            check(path)
        return open_(path, flags, *arguments, **options)

    def seen_io_open(path, mode="r", *arguments, **options):
        if "r" in mode:
            check(path)
        else:
            made(path)
        return io_open(path, mode, *arguments, **options)

    def seen_replace(source, target, **options):
        made(target)
        return replace(source, target, **options)

    def seen_listdir(path="."):
        return [name for name in listdir(path) if not late(os.path.join(os.fsdecode(path), name))]

    class SeenScan:
        def __init__(self, path="."):
            self.scan = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.scan.close()

        def __iter__(self):
            return (entry for entry in self.scan if not late(entry.path))

        def close(self):
            self.scan.close()

    os.stat, os.lstat, os.open, os.replace = seen_stat, seen_lstat, seen_open, seen_replace
    os.listdir, os.scandir = seen_listdir, SeenScan
    io.open = builtins.open = seen_io_open
