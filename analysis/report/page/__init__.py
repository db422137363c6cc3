"""The pages that the analysis writes: templates, one style sheet and small scripts, all put into
one file."""

from __future__ import annotations

from pathlib import Path

import jinja2

from analysis.report.page.glossary import GLOSSARY
from analysis.report.text import FILTERS
from benchmark.errors import UserError

ESCAPED = "backslashreplace"
"""How names that are not UTF-8, as those of folders can be, are written."""


def make_folders(*folders: Path) -> None:
    """Make folders, and those that they lie in. Raises `UserError` for one that cannot be made."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"folder {folder} cannot be made ({error.strerror})") from None


def write_page(path: Path, template: str, **content: object) -> Path:
    """Write the page of a template; returns its path. Names that are not UTF-8 are escaped."""
    path.write_text(render(template, **content), encoding="utf-8", errors=ESCAPED)
    return path


def render(name: str, **content: object) -> str:
    """The page of the template `name` in this folder, with style and scripts inside: it needs no
    other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(FILTERS)
    environment.globals["glossary"] = GLOSSARY
    return environment.get_template(name).render(content)
