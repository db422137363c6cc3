"""`python -m tests.support.time_analysis`: time, memory and size of the report of a grid; with
`--large`, of one that is twice as large."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from analysis.report.build import build
from tests.support import simulate

MEASURES = (*simulate.MEASURES, "l1", "taylor")
LARGE = (*MEASURES, "loss_biased", "fisher", "bn_scale")
ARCHS = ("vgg13", "mobilenet_v1", "resnet56")
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main() -> None:
    """Simulate 516 runs of 160 epochs (or 1,098), dense controls among them, and write their
    report."""
    large = sys.argv[1:] == ["--large"]
    configs = simulate.grid(
        measures=LARGE if large else MEASURES, archs=ARCHS if large else ARCHS[:2],
        datasets=["cifar10", "cifar100"], timings=[1, 40, "trained"], rounds=[1, 5], epochs=160,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        simulate.simulate(runs, configs, simulate.World(agreement=True))
        begun, start = _cpu_seconds(), time.perf_counter()
        page = build(str(runs), Path(folder) / "report").index
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - begun
        size = page.stat().st_size / 1e6
    peaks = " and ".join(f"{resource.getrusage(who).ru_maxrss / 2**20:.2f} GiB" for who in WHO)
    print(
        f"{len(configs)} runs: {seconds:.1f} s, {cpu:.1f} s of CPU, a page of {size:.2f} MB, peak "
        f"memory {peaks} (this process and each that draws)"
    )


def _cpu_seconds() -> float:
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)


if __name__ == "__main__":
    main()
