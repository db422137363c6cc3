"""Forwards `python -m benchmark.overhead` to `python -m benchmark.perf.overhead` until 0.3."""

import runpy
import sys

if __name__ == "__main__":
    print("note: this command is now `python -m benchmark.perf.overhead`", file=sys.stderr)
    runpy.run_module("benchmark.perf.overhead", run_name="__main__", alter_sys=True)
