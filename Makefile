# Set-up is part of every target: the first call makes .venv and installs what constraints.txt pins.
PYTHON ?= python3
# An index that PyTorch alone is taken from, such as that of its CPU builds; empty: PyPI.
TORCH_INDEX ?=
BIN := .venv/bin
# The fast suite in parallel.
WORKERS := -n auto --maxprocesses 4 --dist worksteal

.PHONY: docs docs-serve demo test test-slow test-gpu coverage lint types format check notebook bench clean

demo: .venv/installed
	$(BIN)/bertsmith pretrain --corpus python-docs --minutes 1.2 --output runs/demo --overwrite
	$(BIN)/bertsmith fill runs/demo "the function returns a [MASK] ."
	$(BIN)/bertsmith encode runs/demo "a file is closed"
	$(BIN)/bertsmith encode runs/demo "a file object is returned" "it is not closed" --compare "a file is closed"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest $(WORKERS)

test-slow: .venv/installed-dev
	$(BIN)/pytest -m slow

test-gpu: .venv/installed-dev
	$(BIN)/pytest -m gpu tests/gpu

# Branches as well as lines, in every process that a test starts and that does not end by a signal.
coverage: .venv/installed-dev
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest $(WORKERS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint types test

# The tutorial as a notebook, executed; NOTEBOOK_CORPUS: a folder of WikiText-2 that is there already.
notebook: .venv/installed-dev
	$(BIN)/python -m tests.support.notebook $(NOTEBOOK_CORPUS)

# The site, in build/site.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: .venv/installed-docs
	$(BIN)/mkdocs serve

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.cpu

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bertsmith needs Python 3.11 or newer; try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Setting up .venv: PyTorch and what else constraints.txt pins; a minute or two."
	@test -n "$(TORCH_INDEX)" || test "$$(uname -s)" != Linux || { \
	  echo "On Linux, PyPI's PyTorch is the CUDA build (2.8 GB to download). For the CPU build (0.2 GB):"; \
	  echo "  make TORCH_INDEX=ADDRESS ...   with the index that https://pytorch.org/get-started shows."; }
	@$(PYTHON) -m venv .venv
	@test -z "$(TORCH_INDEX)" || $(BIN)/pip install --quiet --disable-pip-version-check \
	  -c constraints.txt --index-url "$(TORCH_INDEX)" torch
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[curves,dedup,finetune,onnx,playground,search]'
	@touch $@

.venv/installed-dev: .venv/installed
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# The peers that the benchmark runs beside; d2l without its dependencies, which pin old releases.
.venv/installed-bench: .venv/installed-dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps d2l==1.0.3
	@touch $@
