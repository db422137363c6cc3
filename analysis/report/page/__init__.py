"""The pages that the analysis writes: HTML templates, one style sheet, small scripts, all put into
one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2


def render(name: str, filters: dict[str, Callable], **content: object) -> str:
    """The page of the template `name` in this folder, with style and scripts inside: it needs no
    other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(content)
