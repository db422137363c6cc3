"""What makes a number: versions, commit, processor, threads."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

from benchmark import __version__

ROOT = Path(__file__).parents[1]
CODE = ("analysis", "benchmark", "sweeps", "pyproject.toml")
"""What the numbers of a run or a report depend on, but for its data."""


@cache
def commit() -> str:
    """The commit of this checkout (12 hex digits), with `-dirty` if its code differs from it; "" if
    there is none."""
    if not (
        ROOT / ".git"
    ).exists():  # git would find a repository further up, such as that of a user's project
        return ""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", *CODE], capture_output=True, check=False
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + "-dirty" * bool(changed.returncode)


@cache
def processor() -> str:
    """The name of the processor, and the instructions that torch uses of it."""
    import torch  # here, because a report needs the commit alone

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def environment() -> dict[str, object]:
    """Of this process, for the summary of a run: `versions`, `commit`, `processor`, `threads`."""
    import torch

    return {
        "versions": {
            "flowprune": __version__, "python": platform.python_version(), "torch": torch.__version__,
        },
        "commit": commit(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
