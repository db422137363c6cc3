"""The batch script of docs/many-machines.md, run by bash with the variables that Slurm sets."""

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
echo "agent $*" >> log
[ "$SWEEP" = finished ] || while true; do sleep 0.05; done
"""


@pytest.fixture
def job(tmp_path):
    """A function that starts the job, with stubs of `wandb` and `scontrol`, and the stubs' log."""
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    programs = {
        "agents.sbatch": script,
        ".venv/bin/activate": "export PATH=$PWD/bin:$PATH\n",
        "bin/wandb": AGENT,
        "bin/scontrol": '#!/bin/bash\necho "scontrol $*" >> log\n',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(sweep: str) -> subprocess.Popen:
        slurm = {"SWEEP": sweep, "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}
        return subprocess.Popen(
            ["bash", "-u", "agents.sbatch"], cwd=tmp_path, env=os.environ | slurm
        )

    return start, tmp_path / "log"


def test_a_job_whose_sweep_is_finished_ends(job):
    start, log = job
    assert start("finished").wait(timeout=60) == 0
    assert log.read_text() == "agent agent --forward-signals finished\n"


def test_a_job_that_is_preempted_stops_its_agent_and_is_queued_again(job):
    start, log = job
    with start("e/p/s") as process:
        while not log.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert (
        log.read_text() == "agent agent --forward-signals e/p/s\nstopped\nscontrol requeue 77_3\n"
    )
