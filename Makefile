# The front door. On a bare machine only python3 (3.11+), make and git are needed.
.DEFAULT_GOAL := help
.NOTPARALLEL:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON
# pyright must not ask the network for newer versions of itself.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup demo test check bars bench proto proto-baseline format pins clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp names a finished stage. It is written last, so a failed set-up is tried again. It holds
# the folder it was made in: a copied .venv still points at the original and is made anew.
ifneq ($(shell cat $(VENV)/.stamp-runtime 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.stamp-runtime
endif
$(VENV)/.stamp-runtime: requirements/runtime.txt requirements/uv.txt pyproject.toml tools/setup.sh
	@rm -f $(VENV)/.stamp-*
	@tools/setup.sh runtime
	@echo "$(CURDIR)" >$@

$(VENV)/.stamp-dev: $(VENV)/.stamp-runtime requirements/dev.txt
	@tools/setup.sh dev
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-dev requirements/bench.txt
	@tools/setup.sh bench
	@touch $@

setup: $(VENV)/.stamp-dev ## Make .venv with everything `check` needs
	@:

demo: $(VENV)/.stamp-runtime ## Run one real job on an embedded mesh and prove it (DEMO="--docs DIR ...")
	@$(BIN)/mesh demo $(DEMO)

test: setup ## Run the tests with reduced counts (ARGS="-k name ...")
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## Everything CI runs: lint, layers, wire, types, tests
	@tools/check.sh $(ARGS)

bars: setup ## Run the tests with the full counts; long
	@$(BIN)/python -m pytest --bars $(ARGS)

bench: $(VENV)/.stamp-bench ## Measure beside FastStream on the same broker, in one run
	@$(BIN)/python -m pytest -s tests/bench $(ARGS)

proto: setup ## Regenerate mesh/wire/v1 from proto/
	@tools/proto.sh mesh/wire/v1

proto-baseline: setup ## At a release: what later wire changes must stay compatible with
	@$(BIN)/buf build proto --exclude-source-info -o proto/baseline.binpb

format: setup ## Sort imports, format, mend what ruff can
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format
	@$(BIN)/buf format -w proto

pins: setup ## Rewrite requirements/*.txt from the .in files (UPGRADE=1: newest versions)
	@tools/pins.sh $(if $(UPGRADE),--upgrade)

clean: ## Remove .venv, caches and build output; the data in .mesh stays
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find mesh services tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
