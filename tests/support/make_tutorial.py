"""`python -m tests.support.make_tutorial`: execute docs/tutorial.ipynb and store what it shows."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute a notebook in a folder, in place."""
    resources = {"metadata": {"path": folder}}
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources=resources, record_timing=False
    )
    client.execute()


if __name__ == "__main__":
    tutorial = nbformat.read(TUTORIAL, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(tutorial, Path(folder))
    nbformat.write(tutorial, TUTORIAL)
