# `make demo` and `make test` do everything: the virtual environment in .venv, the installation, the run.
# A second call installs nothing again unless pyproject.toml has changed.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The newest supported Python that really runs: version managers leave names behind that do not.
RUNS := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
ifndef PYTHON
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	if $$p $(RUNS) >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTEST_ARGS ?=

# Several processes share the cores: each of them with one BLAS thread.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export JAX_PLATFORMS ?= cpu

.PHONY: help
help:
	@echo "make demo            a hyperparameter search, a BBOB run and a neuroevolution run, with tables and plots"
	@echo "make test            every check: style, layers, types, documentation, tests"
	@echo "make lint|types|docs|unit   one of the checks; PYTEST_ARGS='-k name' goes to pytest"
	@echo "make test-versions   the tests under every Python >= 3.11 that is installed"
	@echo "make clean           remove the virtual environments and everything that was built"
	@echo "PYTHON=...           the interpreter to use; now: $(or $(PYTHON),none found)"

# ---- set-up

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; install one or say make PYTHON=/path/to/python"; exit 1; }
	@echo "==> Making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "This Python has no venv module; on Debian: apt install python3-venv"; exit 1; }

# $(call install,EXTRAS): editable installation with the extras, quiet unless it fails.
define install
	@echo "==> Installing blackbox-engine[$(1)] into $(VENV) (log: $(VENV)/install.log)"
	@start=$$(date +%s); $(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable '.[$(1)]' \
		>$(VENV)/install.log 2>&1 || { tail -n 25 $(VENV)/install.log; echo "Installation failed."; exit 1; }; \
	echo "    done in $$(( $$(date +%s) - start )) s"
	@touch $@
endef

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(call install,jax$(,)hpo$(,)plot)

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(call install,jax$(,)hpo$(,)rl$(,)tune$(,)plot$(,)dev)
	@touch $(VENV)/demo.stamp

, := ,

# ---- the two commands

.PHONY: demo
demo: $(VENV)/demo.stamp
	@echo "==> Running the demonstration; plots go to demo-output/"
	@$(BIN)/python examples/demo

.PHONY: test
test: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory --jobs=2 lint types docs
	@$(MAKE) --no-print-directory unit
	@echo "==> All checks passed"

# ---- one check each

.PHONY: lint
lint: $(VENV)/test.stamp
	@echo "==> Style (ruff)"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

# Types and layers are checked on an installed wheel, where blackbox.kernels and blackbox.problems lie inside blackbox.
INSTALLED := build/installed

.PHONY: wheel
wheel: $(VENV)/test.stamp
	@echo "==> Wheel, installed into $(INSTALLED)"
	@rm -rf build
	@$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir build/dist . \
		2>$(VENV)/wheel.log || { cat $(VENV)/wheel.log; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-compile --no-index \
		--target $(INSTALLED) build/dist/*.whl

.PHONY: types
types: wheel
	@echo "==> Layers (import-linter)"
	@cd $(INSTALLED) && "$(CURDIR)/$(BIN)/lint-imports" --config "$(CURDIR)/pyproject.toml" --no-cache >../layers.log \
		|| { cat ../layers.log; exit 1; }
	@echo "==> Types (mypy --strict)"
	@cd $(INSTALLED) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p blackbox

.PHONY: docs
docs: $(VENV)/test.stamp
	@echo "==> Documentation: examples executed, pages built in docs/_build/html"
	@$(BIN)/sphinx-build -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@$(BIN)/sphinx-build -q -W --keep-going -b doctest -d docs/_build/doctrees docs docs/_build/doctest

.PHONY: unit
unit: $(VENV)/test.stamp
	@echo "==> Tests (pytest, $(JOBS) processes)"
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 10 $(PYTEST_ARGS)

.PHONY: test-versions
test-versions:
	@for p in python3.11 python3.12 python3.13 python3.14; do \
		if $$p $(RUNS) >/dev/null 2>&1; then \
			$(MAKE) --no-print-directory unit PYTHON=$$p VENV=.venv-$$p || exit 1; \
		else echo "==> $$p is not installed: skipped"; fi; done

.PHONY: clean
clean:
	rm -rf .venv .venv-* build docs/_build demo-output .mypy_cache .pytest_cache .ruff_cache *.egg-info
