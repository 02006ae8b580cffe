# make install   .venv with everything for development (uv where it is installed, else venv and pip)
# make demo      phantoms in, a served backbone out; SCANS=FOLDER puts the scans of a folder in the same lake
# make test      the tests, without the slow, GPU and two-host ones
# make test-slow the wheel, kills and the two-host tests
# make lint      ruff, mypy, import contracts
# make bench     every benchmark; results go to benchmarks/results/

# Where the CPU build of torch comes from: a folder of wheels, or a page that links to them. Nothing else says so.
TORCH_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)
export PIP_FIND_LINKS := $(TORCH_FIND_LINKS)
export UV_FIND_LINKS := $(TORCH_FIND_LINKS)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/constraints.txt
UV := $(shell command -v uv)

ifdef UV
CREATE := uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
PIP := uv pip install --quiet --python $(BIN)/python
FREEZE := uv pip freeze --python $(BIN)/python
else
CREATE := $(PYTHON) -m venv $(VENV)
PIP := $(BIN)/python -m pip install --quiet
FREEZE := $(BIN)/python -m pip freeze
endif

.PHONY: install demo test test-slow lint bench constraints

install: $(VENV)/.installed

# torch first and from TORCH_FIND_LINKS alone: the public index has only the CUDA build, which needs gigabytes more.
# An installed torch that fits is kept by the second step.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(CREATE)
	$(PIP) --no-index --no-deps --constraint $(CONSTRAINTS) torch
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: install
	PATH="$(abspath $(BIN)):$$PATH" SCANS="$(SCANS)" bash examples/demo.sh

test: install
	$(BIN)/python -m pytest -q -m "not slow and not gpu and not cluster"

test-slow: install
	$(BIN)/python -m pytest -q -m "(slow or cluster) and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

# After a deliberate upgrade: the pins of what is installed now. The +cpu of torch is the wheel's, not the version's.
constraints: install
	$(FREEZE) --exclude-editable | sed 's/+cpu$$//' > $(CONSTRAINTS)
