# One front door for people and CI. Each target installs first what it needs; PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DATA ?=

.PHONY: install demo test check fix bench

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/headstart demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@test -n "$(DATA)" || { echo "make bench DATA=FOLDER: a folder per class or a Kaggle competition folder"; exit 2; }
	$(BIN)/python benchmarks/features.py "$(DATA)"
	$(BIN)/python benchmarks/train.py "$(DATA)"
