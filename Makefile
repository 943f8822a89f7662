# `make train` and `make test` are all a fresh machine needs; the rest is for those who work on flowvae.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: train test test-fast lint docs docs-serve notebooks results bench gpu wheels dist gallery clean help

help:
	@echo "make train      train the tutorial's model on MNIST, evaluate it, draw its pictures"
	@echo "make test       the whole suite"
	@echo "make test-fast  the suite without its slow tests"
	@echo "make lint       style and types"
	@echo "make docs       build the documentation, strictly, into site/"
	@echo "make notebooks  run the notebooks of the documentation and keep their outputs"
	@echo "make bench      the operators' speed beside their peers', with table and plot under docs/"
	@echo "make gpu        on a machine with a CUDA GPU: its tests and speeds, into runs/gpu"
	@echo "make wheels     what such a machine may lack, into wheels/ (for GPU_PYTHON=3.12)"
	@echo "make dist       build the wheel and the sdist into dist/, and look into them; publishes nothing"
	@echo "make gallery    the pictures of the gallery again, from the runs of 'make results'"
	@echo "make results    train all presets at several seeds and write the tables (hours)"
	@echo "make train ARGS='--preset planar --epochs 20'   any flag of 'flowvae train'"

# Two environments grow in one folder: what training needs, and what development needs.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'flowvae needs Python 3.11 or later, got ' + sys.version.split()[0])"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
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

# Runs the notebooks of the documentation and keeps their outputs.
notebooks: $(VENV)/.dev
	$(BIN)/python -m benchmarks.notebooks $(ARGS)

results: $(VENV)/.dev
	$(BIN)/python -m benchmarks.presets $(ARGS)

# Peers are optional: what is not installed is left out of the table.
bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.planar $(ARGS)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.evaluation

# By the Python that has PyTorch with CUDA, and into no environment of ours.
gpu:
	$(PYTHON) -m benchmarks.gpu --wheels wheels $(ARGS)

# Small ones that a Python with PyTorch and the usual packages lacks; WHEELS names others.
GPU_PYTHON ?= 3.12
WHEELS ?= annotated-types beartype hypothesis pydantic pydantic_core pyro-api pyro-ppl sortedcontainers typing-inspection zuko
wheels: $(VENV)/.train
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --constraint constraints.txt \
	  --python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform manylinux2014_x86_64 --dest wheels $(WHEELS)

# By the environment's own hatchling: an isolated build would download it each time.
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m benchmarks.distribution dist $(ARGS)

gallery: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gallery $(ARGS)

clean:
	rm -rf $(VENV) site dist build .cache .pytest_cache .ruff_cache .hypothesis
