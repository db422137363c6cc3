PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

unexport PYTHONDONTWRITEBYTECODE  # importing torch takes three times as long without its bytecode

.PHONY: demo report test slow long cluster gpu lint clean

demo: $(READY)  ## the demo grid on real digits, then its report
	$(BIN)/python -m sweeps run sweeps/demo.yaml --runs runs --wandb offline
	$(BIN)/python -m analysis runs --out report --grid sweeps/demo.yaml

report: $(READY)  ## the report of all runs under runs/
	$(BIN)/python -m analysis runs --out report

test: $(READY)
	$(BIN)/python -m pytest

slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not long"

long: $(READY)  ## slow tests for which .ci/run has no time
	$(BIN)/python -m pytest -m long

cluster: $(READY)  ## real W&B agents and a Ray cluster of two nodes, on this machine
	$(BIN)/python -m pytest -m cluster --numprocesses 0 --timeout 900

gpu: $(READY)  ## all to measure on a new GPU in five minutes; ARGS="--device cpu --tiny" tries it out
	$(BIN)/python -m benchmark.perf.gpu --seconds 300 --out gpu $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
