# `make train` and `make test` are all a fresh machine needs; the rest is for those who work on flowvae.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: train test test-fast lint docs docs-serve results bench clean help

help:
	@echo "make train      train the starting text's model on MNIST, evaluate it, draw its pictures"
	@echo "make test       the whole suite"
	@echo "make test-fast  the suite without its slow tests"
	@echo "make lint       style and types"
	@echo "make docs       build the documentation, strictly, into site/"
	@echo "make bench      the operators' speed beside their peers', with table and plot under docs/"
	@echo "make results    train all presets at several seeds and write the tables (hours)"
	@echo "make train ARGS='--preset planar --epochs 20'   any flag of 'flowvae train'"

# Two environments grow in one folder: what training needs, and what development needs.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'flowvae needs Python 3.11 or later, got ' + sys.version.split()[0])"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fast]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(VENV)/.train
	$(BIN)/flowvae train $(ARGS)

# One thread a process: two torch processes with two threads each fight over the cores.
test test-fast: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not slow' $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict --quiet

docs-serve: $(VENV)/.dev
	$(BIN)/python -m mkdocs serve

results: $(VENV)/.dev
	$(BIN)/python -m benchmarks.presets $(ARGS)

# Peers are optional: what is not installed is left out of the table.
bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.planar $(ARGS)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.evaluation

clean:
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis
