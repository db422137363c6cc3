"""`wandb sweep` and `wandb agent`, the real ones, on our sweep files; agents and runs are
killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from analysis.claims import judge_all
from analysis.runs.load import load as load_runs
from analysis.runs.pull import Pull
from analysis.settings import named
from benchmark.record import Record, run_folders
from sweeps.grid import load
from sweeps.push import push
from tests.analysis.test_wandb import assert_same
from tests.benchmark.test_tracker import assert_complete

SWEEPS = Path(__file__).parents[2] / "sweeps"
PATIENCE = 500
TINY = {
    "measure": {"values": ["magnitude", "loss"]},
    "prune_epoch": {"values": [1, 3]},
    "seed": {"values": [0, 1]},
    "rounds": {"value": 2},
    "epochs": {"value": 8},
    "width": {"value": 0.0625},
    "train_limit": {"value": 400},
    "score_samples": {"value": 60},
    "probe_samples": {"value": 30},
    "score_all": {"value": False},
}

pytestmark = pytest.mark.cluster


def children(pid):
    """Processes that this one has started."""
    with contextlib.suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def command_line(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def sweep(server, path):
    """`wandb sweep PATH`; returns what the server has of it."""
    command = [sys.executable, "-m", "wandb", "sweep", "--project", "swept", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return server.sweeps[-1]


class Agent:
    """`wandb agent` in a session of its own."""

    def __init__(self, place, sweep):
        name = f"{sweep.entity}/{sweep.project}/{sweep.name}"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.log = place / f"agent-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wandb", "agent", "--forward-signals", name],
                cwd=place,
                env=os.environ | {"PATH": path},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def child(self, run):
        """The process of a run of the server, if this agent started it."""
        given = f"WANDB_RUN_ID={run.name}\0"
        ours = [pid for pid in children(self.process.pid) if "benchmark" in command_line(pid)]
        return next(
            (pid for pid in ours if given in Path(f"/proc/{pid}/environ").read_text()), None
        )

    def kill(self, child):
        """SIGKILL to the agent and to the process of its run."""
        self.process.kill()
        os.kill(child, signal.SIGKILL)
        self.process.wait()

    def finish(self):
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


def wait_for(condition, agents):
    """The first value of `condition` that is true, while the agents live."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline
        assert all(agent.process.poll() is None for agent in agents), [
            agent.log.read_text() for agent in agents
        ]
        time.sleep(0.1)
    return value


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where agents work; what is left of them is killed in the end."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    agents = []
    monkeypatch.setattr(Agent, "__init__", remembering(Agent.__init__, agents))
    yield place
    for agent in agents:
        if agent.process.poll() is None:
            for pid in [*children(agent.process.pid), agent.process.pid]:
                os.kill(pid, signal.SIGKILL)
            agent.process.wait()


def remembering(method, things):
    def remember(self, *arguments):
        method(self, *arguments)
        things.append(self)

    return remember


@pytest.mark.timeout(1200)
def test_agents_finish_a_grid_though_two_of_them_are_killed(server, place):
    """SIGKILL loses a run, which the user deletes; SIGTERM hands it to the next agent. Records and
    mirrors agree."""
    path = place / "tiny.yaml"
    content = yaml.safe_load((SWEEPS / "demo.yaml").read_text()) | {"parameters": TINY}
    path.write_text(yaml.safe_dump(content))
    configs = load(path).configs
    assert len(configs) == 8
    content["command"].append("--checkpoint-seconds=0")  # no parameter of a grid
    path.write_text(yaml.safe_dump(content))
    grid = sweep(server, path)

    def in_the_middle(but=None):
        """A run that has some epochs behind it and some before it."""
        for run in server.runs_of(grid):
            run_id = run.config.get("run_id")
            if run.state == "running" and run_id not in (None, but):
                record = Record(place / "runs" / run_id)
                if not record.finished and record.last_epoch() in range(3, 7):
                    return run
        return None

    first = Agent(place, grid)
    lost = wait_for(in_the_middle, [first])
    first.kill(first.child(lost))
    lost.state = "crashed"  # as W&B finds out after minutes without a sign of life
    import wandb

    wandb.Api().run(f"{lost.entity}/{lost.project}/{lost.name}").delete()

    second, third = Agent(place, grid), Agent(place, grid)
    handed_on = wait_for(lambda: in_the_middle(but=lost.config["run_id"]), [second, third])
    stopped, other = (second, third) if second.child(handed_on) else (third, second)
    stopped.process.terminate()
    stopped.finish()
    assert handed_on.state in ("preempted", "pending", "running")
    assert len(handed_on.history) >= 2
    last = Agent(place, grid)
    other.finish()
    last.finish()

    runs = {run.config["run_id"]: run for run in server.runs_of(grid)}
    assert len(server.runs_of(grid)) == len(runs) == 8
    assert runs[handed_on.config["run_id"]] is handed_on
    assert runs[lost.config["run_id"]] is not lost
    assert [folder.name for folder in run_folders(place / "runs")] == sorted(runs)
    for config in configs:
        assert runs[config.run_id].group == config.label.rpartition(" ")[0]
        assert_complete(runs[config.run_id], Record(place / "runs" / config.run_id))

    local = load_runs(str(place / "runs"))
    pulled = load_runs(f"wandb:{grid.entity}/{grid.project}", Pull(cache=place / "cache"))
    assert_same(pulled, local)
    assert [claim.to_dict() for claim in judge_all(named(pulled))] == [
        c.to_dict() for c in judge_all(named(local))
    ]
    assert push(place / "runs", grid.project) == 0  # all is there: agents' runs count
    assert len(server.runs_of(grid)) == len(server.runs) == 8
    pytest.importorskip("wandb_workspaces")
    from analysis import dashboard

    for make in (dashboard.workspace, dashboard.report):
        assert dashboard.saved(make, grid.project, grid.entity, {}).startswith(server.url)
    assert {view["type"] for view in server.views.values()} == {"project-view", "runs"}


@pytest.mark.parametrize("name", sorted(path.name for path in SWEEPS.glob("*.yaml")))
def test_wandb_takes_every_sweep_file(server, name):
    grid = sweep(server, SWEEPS / name)
    assert len(grid.points) == load(SWEEPS / name).points
    content = yaml.safe_load(grid.config)
    assert content["command"] == ["${env}", "${interpreter}", "-m", "benchmark", "${args}"]
