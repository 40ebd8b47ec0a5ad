# One front door for people and CI. Each target installs first what it needs; PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DATA ?=
ARGS ?=

.PHONY: install demo test test-fast check fix bench bench-trust bench-peers

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/headstart demo

# Files run side by side, one worker a core; a file stays with one worker, since its tests share what they trained. A
# worker that dies ends the run and names its test: what would take its place may wait for ever.
SIDE_BY_SIDE = --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

# The daily round: what takes no longer than a second or two.
test-fast: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow' $(ARGS)

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

bench-trust: $(READY)
	@test -n "$(DATA)" || { echo "make bench-trust DATA=FOLDER [ARGS=…]: a folder per class or a Kaggle competition folder"; exit 2; }
	$(BIN)/python benchmarks/trust.py "$(DATA)" $(ARGS)

# The peers (Keras with TensorFlow, fastai) live in an environment of their own.
PEERS = .venv-bench
$(PEERS)/.ready: pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench-peers: $(PEERS)/.ready
	@test -n "$(DATA)" || { echo "make bench-peers DATA=FOLDER: a folder per class or a Kaggle competition folder"; exit 2; }
	$(PEERS)/bin/python benchmarks/tutorial.py "$(DATA)"
	$(PEERS)/bin/python benchmarks/peers.py "$(DATA)"
