# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test test-slow fuzz audit check format bench docs clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## the virtual environment .venv; the other targets make it when they need it

$(READY): pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 2 GB, some minutes on a slow line"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

demo: $(READY) ## train a league on real data, publish a signed release, serve it
	$(BIN)/python simulate.py

test: $(READY) ## every fast test
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

fuzz: $(READY) ## secure aggregation under long random schedules and broken messages
	HANSA_FUZZ=5000 $(BIN)/python -m pytest tests/privacy/secagg/test_secagg_fuzz.py tests/privacy/secagg/test_secagg_schedules.py

audit: $(READY) ## canaries in real training against the claimed epsilon, and against broken training
	$(BIN)/python -m simulation.audit_cli

check: $(READY) ## format, lint, types and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## every figure that we claim, beside its peers
	$(BIN)/python -m benchmarks

docs: $(READY) ## gather the settings page and check every link
	$(BIN)/python docs/build.py

clean: ## remove what was built, not what was learnt
	rm -rf $(VENV) build dist *.egg-info
