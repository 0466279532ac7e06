# Everything happens in .venv; nothing is installed elsewhere but Debian packages for the tests (scripts/system-packages.sh).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run images test test-fast check bench soak lock clean

PYTHON ?= python3
BIN := .venv/bin
VAR := var
COMPILE := --quiet --no-emit-index-url --no-emit-find-links --generate-hashes --allow-unsafe --strip-extras --all-build-deps
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
NPM_INSTALL := npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Kumomori needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python cannot make a virtual environment: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

.venv/cli: .venv/created requirements/cli.txt pyproject.toml
	@echo "Installing Kumomori into .venv …"
	@$(PIP_INSTALL) --require-hashes -r requirements/cli.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/demo: .venv/cli requirements/demo.txt
	@echo "Installing the emulated clouds of the demo into .venv …"
	@$(PIP_INSTALL) --require-hashes -r requirements/demo.txt
	@touch $@

.venv/dev: .venv/cli requirements/dev.txt
	@echo "Installing what the checks and tests need into .venv …"
	@$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

.venv/osls: .venv/created infra/serverless/package.json infra/serverless/package-lock.json infra/serverless/.npmrc
	@echo "Installing osls into .venv …"
	@mkdir -p .venv/node && cp infra/serverless/package.json infra/serverless/package-lock.json infra/serverless/.npmrc .venv/node/
	@cd .venv/node && $(NPM_INSTALL)
	@touch $@

# 3.33 is the last azurite without telemetry: a third of the size of later ones, which need a newer Node than osls, too
.venv/azurite: .venv/created tests/servers/azurite/package.json tests/servers/azurite/package-lock.json tests/servers/azurite/.npmrc
	@echo "Installing azurite into .venv …"
	@mkdir -p .venv/node-azurite && cp $(filter tests/%,$^) .venv/node-azurite/
	@cd .venv/node-azurite && $(NPM_INSTALL)
	@touch $@

setup: .venv/cli ## .venv with the kumomori command

setup-dev: .venv/dev ## … and with what checks and tests need

run: .venv/demo ## scan a small demo disk, then a console and a fleet on an emulated AWS account
	@mkdir -p $(VAR)
	@$(BIN)/python -m demo.disk $(VAR)/demo.img
	@echo; echo "$$ $(BIN)/kumomori scan image $(VAR)/demo.img"; echo
	@$(BIN)/kumomori scan image $(VAR)/demo.img || test $$? -eq 1
	@$(BIN)/python -m demo.tour

images: setup-dev ## container images of console, fleet and function, as OCI archives with their SBOMs in var/images
	@scripts/system-packages.sh
	@$(BIN)/python -m infra.images

check: setup-dev ## format, lint, types, import rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary --python-version 3.10 core
	@out=$$($(BIN)/lint-imports 2>&1) || { echo "$$out"; exit 1; }

# three tests at once on two cores: those of leases and outages wait more than they work
test: check ## checks and the whole suite
	@scripts/system-packages.sh
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory .venv/osls .venv/azurite; fi
	@$(BIN)/pytest -n 3 --dist worksteal --quiet

test-fast: setup-dev ## the tests that take seconds
	@$(BIN)/pytest -n 3 --dist worksteal --quiet -m "not slow"

bench: setup-dev ## measure what the README claims; writes docs/bench.md
	@scripts/system-packages.sh
	@$(BIN)/python -m bench

soak: setup-dev ## the long tests in full; keeps their result in docs/soak.md
	@scripts/system-packages.sh
	@mkdir -p $(VAR)
	@$(BIN)/pytest tests/soak --quiet --capture=no | tee $(VAR)/soak.log
	@{ echo "# Soak"; echo; echo "What \`make soak\` printed last, on $$(date -u +%F), Linux $$(uname -r | cut -d. -f1-2) $$(uname -m):"; echo; \
	  echo "*equal*: all files as before; *gaps*: something differs and the scan says so; *refused*: not opened, with a reason;"; \
	  echo "*changed*: content or a name differs where the filesystem has no checksum that could tell; *failures*: an exception,"; \
	  echo "a hang, memory beyond the limit, or a file that vanished without a gap."; echo; \
	  grep '; [0-9]* failures$$' $(VAR)/soak.log | sed 's/^/- /'; } > docs/soak.md

lock: setup-dev ## renew requirements/*.txt from pyproject.toml
	@$(BIN)/pip-compile $(COMPILE) --upgrade --extra scanner --extra fleet --extra console --extra client --extra cli --extra aws --extra policy --output-file requirements/cli.txt pyproject.toml
	@$(BIN)/pip-compile $(COMPILE) --upgrade --extra scanner --extra fleet --extra console --extra client --extra cli --extra aws --extra policy --extra demo --output-file requirements/demo.txt pyproject.toml
	@$(BIN)/pip-compile $(COMPILE) --upgrade --extra infra --output-file requirements/infra.txt pyproject.toml
	@$(BIN)/pip-compile $(COMPILE) --upgrade --extra function --output-file requirements/function.txt pyproject.toml
	@$(BIN)/pip-compile $(COMPILE) --upgrade --extra scanner --extra fleet --extra console --extra client --extra cli --extra aws --extra policy --extra demo --extra infra --extra dev --output-file requirements/dev.txt pyproject.toml

clean: ## remove what make made
	@rm -rf .venv $(VAR) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
