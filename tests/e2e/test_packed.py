"""The tests of the driver hold for the packed engine too, with stand-ins for streams and graphs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packed import environment

ROOT = Path(__file__).parents[2]
OF_THE_DRIVER = (
    *(f"tests/sweeps/test_{name}.py" for name in ("local", "sweeps", "jobs", "components")),
    *(f"tests/benchmark/test_{name}.py" for name in ("digests", "initial", "model_files", "ways")),
    "tests/benchmark/test_outside.py",
    "tests/e2e/test_chaos.py",
)
OF_OTHER_ENGINES = "an_engine_that_cannot_be_had or without_memory or gpu_fails or memory_is_given"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_tests_of_the_driver_pass_on_the_packed_engine(tmp_path):
    command = [
        sys.executable, "-m", "pytest", *OF_THE_DRIVER, "-m", "(slow or not slow) and not cluster",
        "-n", "2", "-q",
        "-k", f"not ({OF_OTHER_ENGINES})", "--basetemp", str(tmp_path / "inner"),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment(tmp_path / "site"), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
def test_the_stand_in_packs_and_replays(tmp_path):
    code = (
        "from tests.conftest import tiny_run; from benchmark.options import Options\n"
        "from pathlib import Path; import sys\n"
        "from sweeps.engines.drive import drive; from sweeps.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        "    made = []\n"
        "    def engine(*given):\n"
        "        made.append(LocalEngine(*given, workers=1)); return made[0]\n"
        "    options = Options(runs=Path(sys.argv[1]), wandb='disabled', device='cpu')\n"
        "    configs = [tiny_run(measure='none', seed=s) for s in range(4)]\n"
        "    outcome = drive(configs, options, engine, lambda event: None)\n"
        "    print(made[0].slots(), len(outcome.done), outcome.failed)\n"
    )
    script = tmp_path / "drive.py"
    script.write_text(code)
    line = [sys.executable, str(script), str(tmp_path / "runs")]
    done = subprocess.run(
        line, env=os.environ | environment(tmp_path / "site"), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "4 4 {}\n", done.stdout + done.stderr
