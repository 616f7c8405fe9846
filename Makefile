# Everything runs in .venv, which the targets make themselves. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
EXPERIMENT ?= schemes_digits
SEEDS ?= 1
RECIPE ?= cpu
RUNS ?= runs
KILLS ?= 200
SEED ?= 0
WORKERS ?= auto
.PHONY: help demo sweep-demo test torture check tables list reproduce zoo bench bench-check install clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(VENV)/.installed  ## set up .venv with the package and its development tools

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install  ## train a ResNet18 through 36,000 free numbers on handwritten digits (less than a minute)
	$(BIN)/python -m rpg_bench.train backbone=resnet18 sharing=rpg_global dof=36k

sweep-demo: install  ## train four of them and draw accuracy against DoF, below runs/sweep_demo (about three minutes)
	$(BIN)/python -m rpg_bench.train --multirun +experiment=sweep_demo
	$(BIN)/python -m rpg_bench.report --results runs/sweep_demo sweep_demo

test: install  ## run the tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --quiet

torture: install  ## kill, damage and starve training KILLS=200 times [SEED=0] and compare every end (10 to 30 minutes)
	cd tests && PYTHONPATH=.:.. $(abspath $(BIN))/python -m torture --kills $(KILLS) --seed $(SEED)

check: install  ## lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: install  ## make results/tables from results/records (seconds)
	$(BIN)/python -m rpg_bench.report

list: install  ## the runs of EXPERIMENT=... [RECIPE=cpu|paper]: done, running, failed and why, missing, hours left
	$(BIN)/python -m rpg_bench.sweeps status $(EXPERIMENT) --recipe $(RECIPE)

reproduce: install  ## run what is missing of EXPERIMENT=... [RECIPE=cpu|paper] [SEEDS=3], then make the tables
	$(BIN)/python -m rpg_bench.train --multirun +experiment=$(EXPERIMENT) hydra.sweeper.recipe=$(RECIPE) 'seed=range($(SEEDS))'
	$(BIN)/python -m rpg_bench.report

zoo: install  ## make results/models from recorded runs whose checkpoints are in RUNS=runs (minutes each)
	$(BIN)/python -m rpg_bench.zoo runs_dir=$(RUNS)

bench: install  ## measure what sharing costs, into results/benchmarks (25 minutes on two cores; leave the machine alone)
	$(BIN)/python -m rpg_bench.benchmarks
	$(BIN)/python -m rpg_bench.benchmarks short=true

bench-check: install  ## compare the short form's ratios with the recorded ones (about a minute)
	$(BIN)/python -m rpg_bench.benchmarks check

clean:  ## remove .venv and caches; never records or runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
