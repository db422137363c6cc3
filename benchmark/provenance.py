"""Where a number comes from: versions, commit, processor, threads."""

from __future__ import annotations

import platform
import subprocess
from functools import cache, partial
from pathlib import Path

from benchmark import __version__

ROOT = Path(__file__).parents[1]
CODE = ("analysis", "benchmark", "sweeps", "pyproject.toml")
"""The code that the numbers of a run or a report depend on."""


@cache
def commit() -> str:
    """The commit of this checkout (12 hex digits), with `-dirty` if its code differs from it; "" if
    there is none."""
    if not (ROOT / ".git").exists():  # git would search the folders above, such as a user's project
        return ""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    try:
        name = git(["git", "rev-parse", "--short=12", "HEAD"], check=True)
        changed = git(["git", "diff", "--quiet", "HEAD", "--", *CODE], check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + "-dirty" * bool(changed.returncode)


@cache
def processor() -> str:
    """The name of the processor, and the instruction set that torch uses."""
    import torch  # here, because a report only needs the commit

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def environment() -> dict[str, object]:
    """`versions`, `commit`, `processor` and `threads` of this process, for the summary of a run."""
    import torch

    return {
        "versions": {
            "flowprune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": commit(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }
