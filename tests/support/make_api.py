"""`python -m tests.support.make_api`: write docs/api.md from signatures and docstrings."""

import ast
import inspect
import textwrap
from pathlib import Path
from pkgutil import resolve_name

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
INTRODUCTION = """# Functions

This page is made from the docstrings. Shapes are in brackets: N images of C channels and H x W
pixels. Wrong arguments raise `benchmark.errors.UserError`, a `ValueError` with a message of one
line. The [tutorial](tutorial.ipynb) uses most of these functions.
"""
PARTS = {
    "Nets": (
        "benchmark.models.build",
        "benchmark.models.trace",
        "benchmark.models.load",
        "benchmark.models.Net",
        "benchmark.cost.cost",
    ),
    "Scores": (
        "benchmark.measures.score",
        "benchmark.registry.measure",
        "benchmark.registry.Measure",
        "benchmark.registry.resolve",
    ),
    "Cuts": (
        "benchmark.pruning.select",
        "benchmark.pruning.masked",
        "benchmark.pruning.compact",
    ),
    "Data": ("benchmark.data.load", "benchmark.data.Images"),
    "Runs": (
        "benchmark.run.run",
        "benchmark.run.Progress",
        "benchmark.config.RunConfig",
        "benchmark.config.RunConfig.run_id",
        "benchmark.config.RunConfig.cell",
        "benchmark.options.Options",
    ),
    "Records": (
        "analysis.runs.load.load",
        "analysis.runs.frames.Frames",
        "analysis.runs.frames.Frames.finished",
    ),
}
"""{heading: names of what is described under it}"""
WIDTH = 100


def page() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for heading, names in PARTS.items():
        parts += [f"## {heading}", *map(described, names)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def described(name: str) -> str:
    """Heading, signature, docstring and fields of a function, a class or a property."""
    thing = resolve_name(name)
    parts = [f"### {name}"]
    if inspect.isfunction(thing):
        parts.append(f"```text\n{signature(_node(thing))}\n```")
    parts.append(inspect.getdoc(thing))
    if inspect.isclass(thing):
        parts.append("\n".join(fields(_node(thing))))
    return "\n\n".join(filter(None, parts))


def _node(thing: object) -> ast.FunctionDef | ast.ClassDef:
    """The syntax tree of a function or a class."""
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def signature(function: ast.FunctionDef) -> str:
    """A signature as the source has it, on one line if it fits."""
    given = function.args
    values = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    parameters = list(map(_parameter, given.args, values))
    if given.kwonlyargs:
        parameters += ["*", *map(_parameter, given.kwonlyargs, given.kw_defaults)]
    result = f") -> {ast.unparse(function.returns)}"
    line = f"{function.name}({', '.join(parameters)}{result}"
    if len(line) <= WIDTH:
        return line
    return f"{function.name}(\n" + "".join(f"    {one},\n" for one in parameters) + result


def _parameter(name: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(name) + (f" = {ast.unparse(default)}" if default else "")


def fields(kind: ast.ClassDef) -> list[str]:
    """A line for each field of a dataclass: type, default, and the text below it."""
    lines = []
    for node, after in zip(kind.body, [*kind.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            constant = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = f": {' '.join(after.value.value.split())}" if constant else ""
            lines.append(_filled(f"- `{ast.unparse(node)}`{text}"))
    return lines


def _filled(line: str) -> str:
    return textwrap.fill(
        line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page())
