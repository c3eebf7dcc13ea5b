# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Another torch:  make demo TORCH=torch==2.12.1   or   make demo TORCH=torch INDEX="--index-url URL"
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# Without a GPU the CPU build, a tenth of the size. Its index is a second look, tried once.
CPU    := --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
GPUS   := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
INDEX  ?= $(if $(filter 0,$(GPUS)),$(CPU))
TORCH  ?= torch==2.13.0
# The exact version of everything else, pip included.
LOCK   ?= requirements.lock
UV     ?= uv==0.13.9
UV_ENV := .venv-uv/$(subst ==,-,$(UV))

.PHONY: demo test test-all test-latest test-oldest extras start-oldest fault-test mutants lint lock clean
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

# The newest and the oldest versions that pyproject.toml allows today, each in an environment of its
# own, made anew. TORCH goes for both:  make test-oldest TORCH=torch==2.10.0
test-latest: RESOLUTION = highest
test-oldest: RESOLUTION = lowest-direct
test-latest test-oldest: test-%: $(UV_ENV)
	rm -rf .venv-$* .venv-$*.lock
	$(COMPILE) --resolution $(RESOLUTION) --output-file .venv-$*.lock
	$(MAKE) test VENV=.venv-$* LOCK=.venv-$*.lock

# Every extra resolves, with the newest and with the oldest allowed versions; nothing is installed.
EXTRAS := $(shell sed -n '/^.project.optional-dependencies/,/^.dependency/s/^\([a-z]*\) = .*/\1/p' \
            pyproject.toml)
extras: $(UV_ENV)
	@for extra in $(EXTRAS); do for versions in highest lowest-direct; do \
	    echo "extra $$extra, $$versions"; \
	    .venv-uv/bin/uv pip compile --quiet pyproject.toml --extra $$extra --universal \
	        --python-version 3.11 --no-emit-package torch --resolution $$versions \
	        --output-file .venv-extra.lock > /dev/null || exit 1; \
	done; done; rm -f .venv-extra.lock

# With the oldest allowed versions, in an environment of their own: a stage starts, and the libraries
# are what the code expects of them.
start-oldest: $(UV_ENV)
	$(COMPILE) --resolution lowest-direct --output-file .venv-oldest.lock
	$(MAKE) .venv-oldest/.ready VENV=.venv-oldest LOCK=.venv-oldest.lock
	.venv-oldest/bin/align sft --dry-run --max_steps 1
	.venv-oldest/bin/python -m pytest --numprocesses $(WORKERS) tests/contracts

# 200 kills a stage by default; less:  make fault-test KILLS=20
KILLS ?= 200
fault-test: $(VENV)/.ready
	$(BIN)/python -W ignore benchmarks/faults/kills.py --kills $(KILLS)

# Change the code that decides results in small ways, one at a time, and count what the tests catch:
# hours. Part of it:  make mutants ONLY='alignment.ppo.*'   What it found: benchmarks/mutants/README.md
MUTMUT ?= mutmut==3.8.1
mutants: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(MUTMUT)
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children $(WORKERS) $(if $(ONLY),'$(ONLY)')
	@$(BIN)/python benchmarks/mutants/figures.py

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.ready: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep -o '^pip==[^ ]*' $(LOCK))"
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH) $(INDEX)
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Write the lock: every version the newest that is allowed, or with  make lock UPGRADE=  as few
# changed as will do. Run the tests after it, and measure what the demo's README promises again.
UPGRADE ?= --upgrade
COMPILE  = .venv-uv/bin/uv pip compile --quiet pyproject.toml --extra dev --group build \
           --no-emit-package torch --universal --python-version 3.11 \
           --custom-compile-command "make lock"

lock: $(UV_ENV)
	$(COMPILE) $(UPGRADE) --output-file requirements.lock

$(UV_ENV):
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/bin/python -m pip install --quiet $(UV)
	@touch $@

clean:
	rm -rf $(VENV) .venv-* runs mutants .pytest_cache .mypy_cache .ruff_cache
