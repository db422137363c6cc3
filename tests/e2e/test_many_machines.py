"""The batch script of docs/many-machines.md, submitted to stand-ins of Slurm's commands."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
AGENT = """#!/bin/bash
trap 'echo stopped >> log; exit 0' TERM
echo "agent $* of $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID" >> log
[ -e finished ] || while true; do sleep 0.05; done
"""
SBATCH = """#!/bin/bash
# runs each task of an array; one that is requeued, again
for argument; do
    case $argument in
        --export=ALL,*) export "${argument#--export=ALL,}" ;;
        *) script=$argument ;;
    esac
done
grep -q '^#SBATCH --requeue' "$script" || exit 1
export SLURM_ARRAY_JOB_ID=77
for task in 3 4; do
    export SLURM_ARRAY_TASK_ID=$task
    (
        again=yes
        while [ $again = yes ]; do
            rm -f requeued.$task
            bash -u "$script" &
            echo $! > pid.$task
            wait $!
            again=no
            [ ! -e requeued.$task ] || again=yes
        done
    ) &
done
wait
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> log
touch requeued.${2#*_}
"""


@pytest.fixture
def place(tmp_path):
    """A folder with the script, and stand-ins of `wandb`, `sbatch` and `scontrol`."""
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    programs = {
        "agents.sbatch": script,
        ".venv/bin/activate": "export PATH=$PWD/bin:$PATH\n",
        "bin/wandb": AGENT,
        "bin/sbatch": SBATCH,
        "bin/scontrol": SCONTROL,
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def submit(place: Path) -> subprocess.Popen:
    """The command of the page."""
    (command,) = re.findall(r"^`(sbatch --export=.*?)`", PAGE.read_text(), re.MULTILINE)
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(command.split(), cwd=place, env=os.environ | {"PATH": path})


def lines(place: Path) -> list[str]:
    log = place / "log"
    return sorted(log.read_text().splitlines()) if log.exists() else []


BOTH = [f"agent agent --forward-signals tester/flowprune/sweep0001 of 77 {task}" for task in (3, 4)]


def test_jobs_whose_sweep_is_finished_end(place):
    (place / "finished").touch()
    assert submit(place).wait(timeout=60) == 0
    assert lines(place) == BOTH


def test_a_job_that_is_preempted_stops_its_agent_and_is_queued_again(place):
    with submit(place) as process:
        while len(lines(place)) < 2:
            time.sleep(0.05)
        os.kill(int((place / "pid.3").read_text()), signal.SIGTERM)
        while lines(place).count(BOTH[0]) < 2:  # its agent has begun anew
            time.sleep(0.05)
        assert lines(place) == [BOTH[0], *BOTH, "scontrol requeue 77_3", "stopped"]
        (place / "finished").touch()
        for task in (3, 4):
            os.kill(int((place / f"pid.{task}").read_text()), signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert lines(place).count("stopped") == 3
