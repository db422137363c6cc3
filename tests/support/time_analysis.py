"""`python -m tests.support.time_analysis`: time and memory of the report of a large grid."""

import resource
import tempfile
import time
from pathlib import Path

from analysis.report.build import build
from tests.support import simulate

MEASURES = (*simulate.MEASURES, "l1", "taylor", "loss_biased", "fisher", "bn_scale")
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main() -> None:
    """Simulate 1,080 pruned runs of 160 epochs and their 18 dense controls, and write their
    report."""
    configs = simulate.grid(
        measures=MEASURES, archs=["vgg13", "mobilenet_v1", "resnet56"],
        datasets=["cifar10", "cifar100"], timings=[1, 40, "trained"], rounds=[1, 5], epochs=160,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        simulate.simulate(runs, configs, simulate.World(agreement=True))
        begun, start = _cpu_seconds(), time.perf_counter()
        build(str(runs), Path(folder) / "report")
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - begun
    peaks = " and ".join(f"{resource.getrusage(who).ru_maxrss / 2**20:.2f} GiB" for who in WHO)
    print(
        f"{len(configs)} runs: {seconds:.1f} s, {cpu:.1f} s of CPU, peak memory {peaks} "
        "(this process and each that draws)"
    )


def _cpu_seconds() -> float:
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)


if __name__ == "__main__":
    main()
