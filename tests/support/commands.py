"""Runs our commands in forks of the test process, which has already imported torch and pandas."""

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

for module in ("benchmark.run", "analysis.report.build"):
    importlib.import_module(module)
FORK = multiprocessing.get_context("fork")


def command(
    module: str,
    *arguments: object,
    cwd: Path | None = None,
    before: Callable[[], object] | None = None,
    **env: str,
) -> subprocess.CompletedProcess:
    """Output and exit status of `python -m module ...`; `before` is called first, in the fork.

    To test imports or signals, start a new interpreter instead.
    """
    line = [f"python -m {module}", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = FORK.Process(
            target=_run, args=(module, line, out.fileno(), err.fileno(), cwd, before, env)
        )
        process.start()
        process.join()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(line, process.exitcode, out.read(), err.read())


def refusal(result: subprocess.CompletedProcess) -> str:
    """The message of a command that must refuse its input: one line, and exit status 2."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert len(result.stderr) < 2000
    return result.stderr.removeprefix("error: ").removesuffix("\n")


def _run(
    module: str,
    line: list[str],
    out: int,
    err: int,
    cwd: Path | None,
    before: Callable | None,
    env: dict,
) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(cwd or ".")
    os.environ.update(env)
    warnings.resetwarnings()
    sys.argv = line
    if before:
        before()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
