"""`python -m tests.support.make_first_hour`: walk the steps of docs/first-hour.md in a fresh clone,
and store what they print."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.wandb_server import serving

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-hour.md"
BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
COMMAND = re.compile(r"^\$ (.*?<<'END'\n.*?^END|.*?)$\n", re.DOTALL | re.MULTILINE)
FIRST, LAST = 8, 12
"""Lines of a longer output that are kept."""
OF_PIP = "WARNING: Location"
"""Beginning of lines that say where a machine looks for packages."""
MISTAKE = "--measure los\n"
"""What is in the command that ends with status 2."""


def walked(page: str, folder: Path, server: str) -> str:
    """The page with the output of its commands, executed one after another in a clone."""

    def block(found: re.Match) -> str:
        return f"```console\n{''.join(shown(found[1], folder, server))}```\n"

    return BLOCK.sub(block, page)


def shown(block: str, folder: Path, server: str) -> Iterator[str]:
    """Each command of a block, and what it prints."""
    for command in COMMAND.findall(block):
        result = subprocess.run(
            ["bash", "-c", f"{ACTIVATE}; {command}"], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        expected = 2 if f"{command}\n".endswith(MISTAKE) else 0
        assert result.returncode == expected, (command, result.stdout)
        lines = result.stdout.replace(server, "https://wandb.ai").rstrip().splitlines()
        lines = [line.rstrip() for line in lines if not line.startswith(OF_PIP)]
        if len(lines) > FIRST + LAST:
            lines[FIRST:-LAST] = ["[...]"]
        yield "\n".join([f"$ {command}", *lines]) + "\n"


ACTIVATE = "[ ! -e .venv/bin/activate ] || source .venv/bin/activate"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, serving() as test_server:
        clone = Path(place) / "flowprune"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        client = test_server.environment(Path(place))
        del client["HOME"]  # where pip finds its settings
        os.environ |= client | {"COLUMNS": "100"}
        os.environ.pop("VIRTUAL_ENV", None)
        PAGE.write_text(walked(PAGE.read_text(), clone, test_server.url))
