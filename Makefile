# make run: set up and start. make test: set up and run every test. make check: format to layers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SKY := .venv-sky
PAGE := src/understudy/page/index.html
WEB_SOURCES := $(shell find web -type f -not -path 'web/node_modules/*' 2>/dev/null)
HOST ?= 127.0.0.1
PORT ?= 8765

.PHONY: run test check web setup format clean

run: $(VENV)/.run $(PAGE)
	@$(BIN)/understudy up --host $(HOST) --port $(PORT)

setup: $(VENV)/.dev $(PAGE)

test: $(VENV)/.dev $(PAGE) $(SKY)/.installed
	$(BIN)/python tools/browser.py
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/npm.sh test
	$(BIN)/pytest

check: $(VENV)/.dev web/node_modules/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/npm.sh run check

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

web: $(PAGE)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Understudy needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Install one (Debian: apt-get install python3; macOS: brew install python) and run:"; \
	  echo "  make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	UNDERSTUDY_SKIP_PAGE=1 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	UNDERSTUDY_SKIP_PAGE=1 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

# SkyPilot wants other versions of what we use, so it has an environment of its own.
$(SKY)/.installed: $(VENV)/.python constraints-skypilot.txt
	$(PYTHON) -m venv $(SKY)
	$(SKY)/bin/pip install --quiet --disable-pip-version-check -c constraints-skypilot.txt skypilot
	@touch $@

web/node_modules/.installed: web/package-lock.json $(VENV)/.python
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/npm.sh ci --no-audit --no-fund
	@touch $@

$(PAGE): $(WEB_SOURCES) web/node_modules/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/npm.sh run build
	@touch $@

clean:
	rm -rf $(VENV) $(SKY) web/node_modules src/understudy/page dist
