"""The pages that the analysis writes: templates, one style sheet and small scripts, all put into
one file."""

from __future__ import annotations

from pathlib import Path

import jinja2

from analysis.report.text import FILTERS


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
    return environment.get_template(name).render(content)
