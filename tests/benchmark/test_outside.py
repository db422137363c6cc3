"""Components from outside: files that a command names, installed packages, copies in records."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from benchmark import outside, registry
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.measures import score
from benchmark.processes import in_new_process
from benchmark.record import Record
from benchmark.run import run
from sweeps.estimate import train_size
from sweeps.grid import load
from tests.benchmark.test_cli import FLAGS
from tests.conftest import tiny_images, tiny_net, tiny_run
from tests.support.commands import command, refusal
from tests.support.components import COSINE, DATA, NAME, NET, packaged

QUIET = ["--wandb", "disabled", "--device", "cpu"]


def test_a_file_is_named_by_its_content_alone(folder):
    name = registry.resolve("measures", "my/cosine.py")
    assert name == NAME
    assert registry.resolve("measures", str(folder / "my" / "cosine.py")) == name
    assert registry.resolve("measures", name) == name
    assert RunConfig(measure=name).run_id == RunConfig(measure=name).run_id
    (folder / "my" / "cosine.py").write_text(COSINE + "\n")
    assert registry.resolve("measures", "my/cosine.py") != name


def test_names_and_paths_of_data_sets(folder):
    name = registry.resolve("data", "my/stripes.py:100")
    stem, digest = name.split("@")
    assert stem == "stripes:100"
    assert registry.split(name) == (f"stripes@{digest}", "100")
    assert registry.split(f"stripes@{digest}") == (f"stripes@{digest}", "")
    assert registry.split(f"folder:x.py@{digest}") == ("folder", f"x.py@{digest}")
    assert registry.resolve("data", "folder:my/stripes.py") == "folder:my/stripes.py"


def test_scores_of_a_file_and_of_a_measure(folder):
    net, (images, labels) = tiny_net("resnet20"), tiny_images(6)
    ours = score(net, "my/cosine.py", images, labels)
    taylor = score(net, "taylor", images, labels)
    measure = registry.load_measure(registry.resolve("measures", "my/cosine.py"))
    again = score(net, measure, images, labels)
    for conv, layer in ours.items():
        norms = net.get_submodule(conv).weight.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(layer, taylor[conv] / norms)
        assert torch.equal(layer, again[conv])


def test_scores_of_a_path_and_of_a_measure_that_has_no_file(folder):
    @registry.measure(order=1)
    def ours(weight, gradient):
        return 2 * (weight * gradient).sum(dim=1).abs()

    net, (images, labels) = tiny_net("resnet20"), tiny_images(6)
    taylor = score(net, "taylor", images, labels)
    doubled = score(net, ours, images, labels)
    assert all(torch.equal(doubled[conv], 2 * layer) for conv, layer in taylor.items())
    assert score(net, folder / "my" / "cosine.py", images, labels).keys() == taylor.keys()


def test_a_whole_run_of_three_files_and_its_copies(folder, options):
    fields = {
        "measure": registry.resolve("measures", "my/cosine.py"),
        "arch": registry.resolve("models", "my/net.py"),
        "dataset": registry.resolve("data", "my/stripes.py:100"),
    }
    config = tiny_run(**fields, epochs=2, train_limit=0, score_samples=20)
    summary = run(config, options)
    assert summary["components"] == fields
    record = Record(options.runs / config.run_id)
    copies = sorted(record.folder.glob("components/*/*.py"))
    assert [copy.relative_to(record.folder).as_posix() for copy in copies] == [
        "components/data/stripes.py", "components/measures/cosine.py", "components/models/net.py",
    ]  # fmt: skip
    assert [copy.read_text() for copy in copies] == [DATA, COSINE, NET]
    with np.load(record.scores_folder / "cut-01.npz") as scores:
        assert {key.partition("/")[0] for key in scores} == {fields["measure"]}


def test_a_process_of_its_own_knows_them(folder):
    name = registry.resolve("data", "my/stripes.py:100")
    assert in_new_process(train_size, name, folder) == train_size(name, folder)


def test_a_record_is_enough_to_continue(folder, options):
    """In a process that knows the name alone, when the file is gone or has changed."""
    config = tiny_run(measure=registry.resolve("measures", "my/cosine.py"), epochs=2)
    before = run(config, options)
    Record(options.runs / config.run_id).summary_file.unlink()
    (folder / "my" / "cosine.py").write_text("broken")
    outside._given.clear()
    assert run(config, options)["test/loss"] == before["test/loss"]
    outside._given.clear()
    Record(options.runs / config.run_id).summary_file.unlink()
    copy = options.runs / config.run_id / "components" / "measures" / "cosine.py"
    copy.write_text(COSINE + "\n")
    with pytest.raises(UserError, match=rf"{NAME} is not here: .*cosine.py has the"):
        run(config, options)


def test_an_unknown_one_is_one_line_that_names_a_changed_file(folder, options):
    config = tiny_run(measure="cosine@000000000000")
    with pytest.raises(UserError, match=r"measure cosine@0{12} is not here: give its file, --mea"):
        run(config, options)
    registry.resolve("measures", "my/cosine.py")
    with pytest.raises(UserError, match=rf"my/cosine.py has the digest {NAME[-12:]}$"):
        run(config, options)


WRONG = {
    "my/cosine.py": ("", "must have a function cosine, decorated by benchmark.registry.measure"),
    "my/loss.py": (COSINE, "has the name of a component of the suite"),
    "my/a-b.py": (COSINE, "must have a name of letters, digits and underscores"),
    "my/c.py": ("def c(:", "c.py cannot be imported: SyntaxError"),
    "my/d.py": ("x = 1\nimport nowhere", "ModuleNotFoundError: No module named 'nowhere' (line 2)"),
    "my/e.py": ("raise SystemExit(0)", "cannot be imported: SystemExit: 0 (line 1)"),
    "my/f.py": (COSINE.replace("cosine", "f").replace("gradient", "grad"), "got 'grad'"),
    "my/g.py": (COSINE.replace("cosine", "g").replace("order=1", "order=7"), "order must be one"),
    "my/h.py": (
        COSINE.replace("cosine", "h").replace("order=1", "order=1, temperature=0"),
        "temperature must be a number above 0, got 0",
    ),
    "my/j.py": (
        COSINE.replace("cosine", "j").replace(".sum(dim=1).abs() / weight.norm(dim=1)", ""),
        "for features.0 must be a tensor [8], got [8, 27]",
    ),
    "my/none.py": ("def none(): pass", "has the name of a component of the suite"),
    "nowhere.py": (None, "measure file nowhere.py does not exist"),
    "gravity": (None, "measure must be one of"),
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_measure_is_one_line(path, folder):
    text, message = WRONG[path]
    if text is not None:
        (folder / path).write_text(text)
    result = command("benchmark", "--measure", path, *FLAGS, *QUIET, cwd=folder)
    assert message in refusal(result)


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("arch", "CONVS = []", "arch file my/x.py must declare build"),
        ("arch", "build = 1", "arch file my/x.py: build must be a function, got 1"),
        (
            "arch",
            "def build(): pass",
            "arch file my/x.py: build must take (num_classes, width=1.0) or (num_classes), got ()",
        ),
        ("arch", "def build(n): pass", "must be 1, because its build takes no width, got 0.0625"),
        ("arch", "def build(n, width): pass", " must return a torch.nn.Module, got None"),
        ("dataset", "", "dataset file my/x.py must declare load"),
        ("dataset", "from benchmark import nothing", "ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_wrong_net_or_data_set_is_one_line(flag, text, message, folder):
    (folder / "my" / "x.py").write_text(text)
    result = command("benchmark", f"--{flag}=my/x.py", *FLAGS, *QUIET, cwd=folder)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr


def grid_file(path, **values):
    parameters = {name: {"values": value} for name, value in values.items()}
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    return path


def test_a_sweep_file_finds_files_in_the_working_folder_and_beside_it(folder, monkeypatch):
    path = grid_file(folder / "my" / "grid.yaml", measure=["cosine.py", "loss"], prune_epoch=[1])
    assert {c.measure for c in load(path).configs} == {NAME, "loss"}
    (folder / "cosine.py").write_text(COSINE + "\n")  # `wandb agent` would take this one
    found = {c.measure for c in load(path).configs}
    assert found == {registry.resolve("measures", "cosine.py"), "loss"}
    assert NAME not in found


def test_a_sweep_leaves_out_blind_cuts_of_a_file(folder):
    text = COSINE.replace("order=1", "order=1, at_init=False")
    (folder / "my" / "cosine.py").write_text(text)
    grid = load(grid_file(folder / "g.yaml", measure=["my/cosine.py", "loss"]))
    assert [config.measure for config in grid.configs] == ["loss"]
    assert len(grid.blind) == 1


def test_components_of_installed_packages(tmp_path, monkeypatch):
    site = tmp_path / "site"
    packaged(site, measures="cosine = somebody.cosine")
    (site / "somebody").mkdir()
    (site / "somebody" / "__init__.py").touch()
    (site / "somebody" / "part.py").write_text("POWER = 1\n")
    text = f"from .part import POWER\n{COSINE}"
    (site / "somebody" / "cosine.py").write_text(text)
    monkeypatch.syspath_prepend(site)
    name = registry.resolve("measures", "cosine")
    assert outside.is_outside(name)
    assert registry.load_measure(name).function.__module__ == "somebody.cosine"
    assert outside.declared("measures") == {"cosine": "site"}
    outside._given.clear()
    assert registry.load_measure(name).name == name
    other = tmp_path / "other"
    packaged(other, measures="cosine = another")
    (other / "another.py").write_text(COSINE)
    monkeypatch.syspath_prepend(other)
    with pytest.raises(UserError, match="measure cosine is declared by two packages"):
        registry.resolve("measures", "cosine")


def test_a_package_without_its_module(tmp_path, monkeypatch):
    packaged(tmp_path / "lost", measures="cosine = nobody.cosine")
    monkeypatch.syspath_prepend(tmp_path / "lost")
    with pytest.raises(UserError, match="measure cosine of package lost cannot be imported"):
        registry.resolve("measures", "cosine")


def test_arguments_as_an_agent_gives_them(folder):
    from benchmark.__main__ import resolved

    ours = ["--measure=my/cosine.py", "--arch", "vgg13", "--dataset=digits", "--runs", "x.py"]
    assert resolved(ours) == [f"--measure={NAME}", *ours[1:]]
    assert resolved(["--measure", "my/cosine.py", "--wandb", "disabled"])[1].startswith("cosine@")


def test_every_need_of_the_suite_is_one_that_a_file_may_have():
    from benchmark.measures import MEASURES

    assert {need for measure in MEASURES.values() for need in measure.needs} <= {*registry.NEEDS}


@pytest.mark.slow
def test_a_sweep_in_a_folder_that_hides_modules(folder):
    """Workers have the files, and take no module from the user's folder."""
    for name in ("analysis", "benchmark", "pickle", "sweeps"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user was run')")
    path = grid_file(
        folder / "grid.yaml",
        measure=["my/cosine.py", "none"],
        arch=["my/net.py"],
        epochs=[1],
        seed=[0],
        dataset=["my/stripes.py"],
        width=[0.0625],
        score_samples=[20],
        probe_samples=[20],
        batch_size=[20],
    )
    code = "import sys; sys.argv[0] = 'sweeps'; from sweeps.__main__ import main; main()"
    line = [sys.executable, "-P", "-c", f"if __name__ == '__main__': {code}", "run", str(path)]
    root = os.path.dirname(os.path.dirname(outside.__file__))
    done = subprocess.run(
        [*line, "--workers", "2", "--runs", "runs", *QUIET], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summaries = [json.loads(file.read_text()) for file in folder.glob("runs/*/summary.json")]
    assert [summary["outcome"] for summary in summaries] == ["finished"] * 2
    result = command("analysis", "runs", "--out", "report", cwd=folder)
    assert result.returncode == 0, result.stderr
