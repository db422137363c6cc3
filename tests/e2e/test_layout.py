"""The direction of imports: no circles, analysis -> sweeps -> benchmark, and a light `--help`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = "benchmark", "sweeps", "analysis"
"""Each may import itself and those before it."""
HEAVY = {"torch", "torchvision", "pandas", "matplotlib", "wandb"}
"""What `--help` does without."""
COMMANDS = [
    "benchmark", "benchmark.descent", "sweeps", "sweeps run", "analysis", "analysis compare",
    "analysis descent", "benchmark.check", "benchmark.export", "analysis.console",
]  # fmt: skip

Graph = Mapping[str, set[str]]
"""{module: the modules of the packages that it imports}"""


def read(root: Path) -> dict[str, ast.Module]:
    """{module: its syntax tree} of all files of the packages under `root`."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {_name(path.relative_to(root)): ast.parse(path.read_text()) for path in files}


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(trees: Mapping[str, ast.Module]) -> Graph:
    """What each module imports, late imports included, those for type checkers alone excluded."""
    return {name: set(_imported(tree, trees)) for name, tree in trees.items()}


def _imported(tree: ast.AST, known: Mapping[str, object]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for branch in node.orelse:
                    yield from _imported(ast.Module([branch], []), known)
            case ast.Import():
                yield from (alias.name for alias in node.names if alias.name in known)
            case ast.ImportFrom(level=0, module=str(module)) if module in known:
                names = {f"{module}.{alias.name}" for alias in node.names}
                yield from names & known.keys()
                if names - known.keys():
                    yield module
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"relative import in line {node.lineno}")
            case _:
                yield from _imported(node, known)


def circles(imports: Graph) -> set[frozenset[str]]:
    """The groups of two or more modules in which each reaches each."""
    reached = {name: _reached(name, imports) for name in imports}
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in imports}
    return {group for group in groups if group}


def _reached(start: str, imports: Graph) -> set[str]:
    found, todo = set(), [start]
    while todo:
        new = imports[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_no_module_is_part_of_a_circle():
    imports = graph(read(ROOT))
    rest = {name: set(targets) for name, targets in imports.items()}
    assert [sorted(circle) for circle in circles(rest)] == []


def test_imports_go_from_analysis_to_sweeps_to_benchmark():
    level = PACKAGES.index
    upward = [
        f"{module} imports {target}"
        for module, targets in graph(read(ROOT)).items()
        for target in targets
        if level(target.partition(".")[0]) > level(module.partition(".")[0])
    ]
    assert not upward


def test_circles_are_found_wherever_an_import_stands(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    files = {
        "a": "import benchmark.b",
        "b": "def late():\n    from benchmark import c",
        "c": "class C:\n    from benchmark.a import x",
        "d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import benchmark.e",
        "e": "import benchmark.d",
    }
    for name, text in files.items():
        (tmp_path / "benchmark" / f"{name}.py").write_text(text)
    assert circles(graph(read(tmp_path))) == {frozenset({f"benchmark.{name}" for name in "abc"})}


@pytest.mark.parametrize("line", COMMANDS)
def test_help_imports_nothing_heavy(line):
    module, *rest = line.split()
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[module, *rest, '--help']!r}\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        f"    print('heavy:', *({HEAVY!r} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "usage:" in result.stdout
    assert result.stdout.splitlines()[-1] == "heavy:"


BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"wandb", "playwright", "ray", "wandb_workspaces"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
import pytest
sys.exit(pytest.main(["-m", "gpu", "-q", "--collect-only", "-n", "0", "-p", "no:cacheprovider"]))
"""


@pytest.mark.slow
def test_the_tests_of_a_gpu_need_neither_wandb_nor_a_browser():
    done = subprocess.run([sys.executable, "-c", BLOCK], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "test_gpu" in done.stdout
