"""Forwards `python -m benchmark.speed` to `python -m benchmark.perf.speed` until 0.3."""

import runpy
import sys

if __name__ == "__main__":
    print("note: this command is now `python -m benchmark.perf.speed`", file=sys.stderr)
    runpy.run_module("benchmark.perf.speed", run_name="__main__", alter_sys=True)
