"""Forwards `python -m benchmark.equivalence` to `benchmark.perf.equivalence` until 0.3."""

import runpy
import sys

if __name__ == "__main__":
    print("note: this command is now `python -m benchmark.perf.equivalence`", file=sys.stderr)
    runpy.run_module("benchmark.perf.equivalence", run_name="__main__", alter_sys=True)
