# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Another torch:  make demo TORCH=torch==2.12.1   or   make demo TORCH=torch INDEX="--index-url URL"
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without a GPU the CPU build, a tenth of the size. Its index is a second look, tried once.
CPU    := --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
GPUS   := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
INDEX  ?= $(if $(filter 0,$(GPUS)),$(CPU))
TORCH  ?= torch==2.13.0

.PHONY: demo test test-all fault-test lint clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.ready
	@$(BIN)/python recipes/demo/run.py

# Each test works on one core and takes up to 3 GB:  make test WORKERS=6  where there is more.
WORKERS ?= 2
PYTEST   = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: $(VENV)/.ready
	$(PYTEST)

test-all: $(VENV)/.ready
	$(PYTEST) -m "not gpu"

# 200 kills a stage by default; less:  make fault-test KILLS=20
KILLS ?= 200
fault-test: $(VENV)/.ready
	$(BIN)/python -W ignore benchmarks/faults/kills.py --kills $(KILLS)

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH) $(INDEX)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
