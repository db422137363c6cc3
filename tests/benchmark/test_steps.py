"""Work in steps gives way to others, and never where they would see a switch that it holds."""

import ast
import time
from pathlib import Path

import pytest

import benchmark
from benchmark.training.steps import finished

PACKAGE = Path(benchmark.__file__).parent
SWITCHES = {
    "tf32", "evaluating", "drawn", "fork_rng", "no_grad", "enable_grad", "autocast", "graph",
    "applied", "stream",
}  # fmt: skip
"""What makes a block in which other work would have other numbers."""


def switched_yields(tree):
    """Lines of the `yield`s inside such a block, but for those that make one themselves."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        if any("contextmanager" in ast.unparse(d) for d in function.decorator_list):
            continue
        for block in ast.walk(function):
            if isinstance(block, ast.With) and SWITCHES & {
                name.attr if isinstance(name, ast.Attribute) else name.id
                for item in block.items
                for name in ast.walk(item.context_expr)
                if isinstance(name, (ast.Attribute, ast.Name))
            }:
                for inside in ast.walk(block):
                    if isinstance(inside, (ast.Yield, ast.YieldFrom)):
                        yield inside.lineno


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_yields_inside_a_switch(path):
    assert list(switched_yields(ast.parse(path.read_text()))) == []


def test_such_a_yield_is_found():
    code = "def f():\n    with tf32(True):\n        for x in y:\n            yield x\n"
    assert list(switched_yields(ast.parse(code))) == [4]
    assert list(switched_yields(ast.parse("@contextmanager\n" + code))) == []
    assert list(switched_yields(ast.parse(code.replace("tf32", "open")))) == []


def test_alone_work_waits_where_it_asks_to():
    def work():
        yield 0.0
        yield 0.05
        return "done"

    start = time.monotonic()
    assert finished(work()) == "done"
    assert time.monotonic() - start >= 0.05


def test_an_interruption_while_it_sleeps_reaches_the_work(monkeypatch):
    """Ctrl-C and SIGTERM: the work saves what it has, and tells W&B the status."""
    seen = []

    def work():
        try:
            yield 10.0
        except SystemExit as end:
            seen.append(end.code)
            raise

    def interrupt(seconds):
        raise SystemExit(143)

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(SystemExit):
        finished(work())
    assert seen == [143]


def test_an_error_of_the_work_is_raised_as_it_is():
    def work():
        yield 0.0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        finished(work())
    assert caught.value.__context__ is None
