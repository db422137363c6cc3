"""A simulated disk: at any operation on a record's files, the power fails or the process is killed.

It stands in for `os` in `benchmark.files`. Model: what was written to a file since its last fsync
is lost; names (made, renamed, removed) reach the disk in the order of the operations, and those
before an fsync of a folder are on it.
"""

import os
from pathlib import Path

COUNTED = ("open", "write", "fsync", "replace", "unlink")


class Stopped(BaseException):
    """The simulated process was killed; no code may catch this."""


class Disk:
    """Works like `os`, counts operations, and stops at number `at` (from 0; None: never)."""

    def __init__(self, at=None):
        self.at, self.count, self.dead, self.log = at, 0, False, []
        self.files = {}
        """{path: identity of the file that it names now}"""
        self.synced = {}
        """{identity: content on the disk}"""
        self.named = {}
        """`files` at the last fsync of a folder"""
        self.lost_names = set()
        self.descriptors = {}
        self.identities = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def _step(self, what, path, torn=None):
        if self.dead or self.count == self.at:
            if torn and not self.dead:
                torn()
            self.dead = True
            raise Stopped
        self.count += 1
        self.log.append(f"{what} {Path(path).name}")

    def _known(self, path):
        """The identity of a file; one from before this disk was watched is on it as it is."""
        path = str(path)
        if path not in self.files and os.path.isfile(path):
            self.identities += 1
            self.files[path] = self.named[path] = self.identities
            self.synced[self.identities] = Path(path).read_bytes()
        return self.files.get(path)

    def open(self, path, flags, mode=0o777):
        self._step("open", path)
        new = flags & os.O_CREAT and not self._known(path)
        descriptor = os.open(path, flags, mode)
        if os.path.isfile(path):
            if new or flags & os.O_TRUNC:
                self.identities += 1
                self.files[str(path)], self.synced[self.identities] = self.identities, b""
            self.descriptors[descriptor] = path
        else:
            self.descriptors[descriptor] = path
        return descriptor

    def write(self, descriptor, content):
        half = content[: len(content) // 2]
        self._step("write", self.descriptors[descriptor], lambda: os.write(descriptor, half))
        return os.write(descriptor, content)

    def fsync(self, descriptor):
        path = self.descriptors[descriptor]
        self._step("fsync", path)
        if os.path.isdir(path):
            self.named = dict(self.files)
        else:
            self.synced[self._known(path)] = Path(path).read_bytes()

    def replace(self, source, target):
        self._step("replace", target)
        self._known(source)
        self._known(target)
        os.replace(source, target)
        self.files[str(target)] = self.files.pop(str(source))

    def unlink(self, path):
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        self._known(path)
        self._step("unlink", path)
        os.unlink(path)
        del self.files[str(path)]

    def cut_power(self, *, names):
        """Make the real folder what is left. names: whether names since the last fsync of a folder
        are on the disk."""
        left = self.files if names else self.named
        for path in {*self.files, *self.named}:
            if path not in left:
                Path(path).unlink(missing_ok=True)
        for path, identity in left.items():
            Path(path).write_bytes(self.synced[identity])
