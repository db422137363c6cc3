"""Our SGD is torch's, and no run loads torch's compiler."""

import subprocess
import sys

import torch

from benchmark.training.step import SGD


def trained(kind, steps, state=None):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5, 3))
    optimizer = kind([weight], lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)
    if state:
        optimizer.load_state_dict(state)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        (weight * (step + 1)).square().sum().backward()
        optimizer.step()
    return weight.detach(), optimizer.state_dict()


def test_it_is_torch_s_sgd():
    ours, our_state = trained(SGD, 3)
    theirs, their_state = trained(torch.optim.SGD, 3)
    assert torch.equal(ours, theirs)
    assert our_state["param_groups"] == their_state["param_groups"]
    assert torch.equal(
        our_state["state"][0]["momentum_buffer"], their_state["state"][0]["momentum_buffer"]
    )
    assert torch.equal(trained(SGD, 2, our_state)[0], trained(torch.optim.SGD, 2, their_state)[0])


SCRIPT = """
import sys
from pathlib import Path
from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.run import run
options = Options(runs=Path(sys.argv[1]), wandb="disabled", device="cpu", threads=1)
options.prepare()
samples = {"train_limit": 40, "score_samples": 20, "probe_samples": 20}
run(RunConfig(width=0.0625, epochs=2, measure="grasp", **samples), options)
print(*(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""


def test_a_run_does_not_import_the_compiler(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
