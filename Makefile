# Two commands matter: `make up` runs everything on this machine, `make test` proves it.
# Paths are relative and quoted, so the folder may have spaces in its name.

SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python -m
UV := $(VENV)/bin/uv
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 4
ARGS ?=

# The first of these that is Python 3.11 or newer; `make env PYTHON=/path/to/python` chooses another.
PYTHONS := python3.11 python3.12 python3.13 python3
NEW_ENOUGH := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

unexport DAGSTER_HOME

.PHONY: help env up down test check format bench fuzz lock clean

help:
	@echo "make up      run everything here (ARGS=\"--dagster-port 3100\" passes options); Ctrl-C stops it"
	@echo "make down    stop it from another terminal"
	@echo "make test    every test (ARGS=\"-k calendar\" passes options to pytest)"
	@echo "make check   formatting, lint, types, floors, Dagster definitions"
	@echo "make format  put the formatting right"
	@echo "make bench   the benchmarks"
	@echo "make fuzz    a million damaged answers through every reader (ARGS=\"--inputs 20000\")"
	@echo "make env     only the virtual environment, from the lock"
	@echo "make lock    resolve the dependencies anew into requirements.lock"
	@echo "make clean   remove what the tools have left; the data folder stays"

env: $(STAMP)

# The environment knows where it stands: in a folder that was moved or copied it is made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(shell pwd))
.PHONY: $(STAMP)
endif

$(STAMP): requirements.lock pyproject.toml setup.py
	@set -e; \
	if ! $(VENV)/bin/python $(NEW_ENOUGH) 2>/dev/null || { [ -f $(STAMP) ] && [ "$$(cat $(STAMP))" != "$$(pwd)" ]; }; then \
		rm -rf $(VENV); \
		python='$(PYTHON)'; \
		if [ -z "$$python" ]; then \
			for candidate in $(PYTHONS); do \
				if "$$candidate" $(NEW_ENOUGH) 2>/dev/null; then python=$$candidate; break; fi; \
			done; \
		fi; \
		if [ -z "$$python" ]; then \
			echo "No Python 3.11 or newer with its venv module was found (looked for $(PYTHONS))." >&2; \
			echo "Install one (Debian and Ubuntu: python3 python3-venv) or name it: make env PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		"$$python" -m venv $(VENV); \
	fi; \
	$(RUN) pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'; \
	$(UV) pip sync --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode requirements.lock; \
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .; \
	pwd > $(STAMP)

up: env
	@exec $(RUN) market_pipelines.cli up $(ARGS)

down: env
	@exec $(RUN) market_pipelines.cli down $(ARGS)

test: env
	@$(RUN) pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: env
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(VENV)/bin/lint-imports --no-logo
	@# An instance of its own with telemetry off: nothing is asked of the network.
	@mkdir -p build/dagster && cp dagster.yaml build/dagster/
	@DAGSTER_HOME="$$PWD/build/dagster" VIRTUAL_ENV="$$PWD/$(VENV)" $(VENV)/bin/dg check defs

format: env
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

fuzz: env
	$(RUN) market_pipelines_tests.fuzz $(ARGS)

bench: env
	@$(RUN) benchmarks $(ARGS)

lock: env
	@$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-emit-find-links $(ARGS) pyproject.toml -o requirements.lock

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage *.egg-info
	@rm -rf .tmp_dagster_home_*
	@find market_pipelines market_pipelines_tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
