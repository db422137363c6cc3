"""`python -m tests.time_analysis`: how long the report of a large grid takes, and how much memory."""

import resource
import tempfile
import time
from pathlib import Path

from analysis.report import build
from tests import simulate

MEASURES = (*simulate.MEASURES, "l1", "taylor", "loss_biased", "fisher", "bn_scale")


def main() -> None:
    """Simulate 1,080 pruned runs of 160 epochs and their 18 dense controls, and write their report."""
    configs = simulate.grid(
        measures=MEASURES, archs=["vgg13", "mobilenet_v1", "resnet56"], datasets=["cifar10", "cifar100"],
        timings=[1, 40, "trained"], rounds=[1, 5], epochs=160,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        simulate.simulate(runs, configs, simulate.World(agreement=True))
        start = time.perf_counter()
        build(str(runs), Path(folder) / "report")
        seconds = time.perf_counter() - start
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peaks = " and ".join(f"{resource.getrusage(one).ru_maxrss / 2**20:.2f} GiB" for one in who)
    print(f"{len(configs)} runs: {seconds:.1f} s; at most {peaks} (this process; the largest of those that drew)")


if __name__ == "__main__":
    main()
