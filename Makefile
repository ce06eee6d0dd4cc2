# Two commands are enough on a fresh clone: `make demo` and `make test`. They need Python 3.11 or newer, make and a network.
#   make demo    search on the embedded digits, retrain what was found beside baselines, print one table
#   make test    all tests (ARGS="tests/plugins -x" for some of them)
#   make check   ruff, mypy, import-linter, documentation drift
#   make docs    the documentation as HTML, in docs/_build/html
#   make drift   write docs/reference anew from the code
#   make venv    the virtual environment alone; PIP_FLAGS is passed on to pip, to take torch from another index for instance

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt $(PIP_FLAGS)
BASE := $(VENV)/.stamp-base
ZOO := $(VENV)/.stamp-zoo
DOCS := $(VENV)/.stamp-docs

.PHONY: help venv demo test check docs drift clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

venv: $(BASE)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "morphsearch needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The build backend comes first and from the constraints too, so that no build fetches one of its own.
$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing morphsearch and its development tools into $(VENV) (once)" >&2
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@

# Sources of test networks. Without their dependencies, since torchvision insists on one exact torch.
$(ZOO): constraints.txt $(BASE)
	$(INSTALL) --no-deps torchvision timm
	@touch $@

$(DOCS): constraints.txt $(BASE)
	$(INSTALL) --no-build-isolation -e '.[docs]'
	@touch $@

demo: $(BASE)
	$(BIN)/python examples/demo.py

test: $(ZOO)
	$(BIN)/python -m pytest $(ARGS)

check: $(ZOO)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/_drift.py --check

docs: $(DOCS)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

drift: $(BASE)
	$(BIN)/python docs/_drift.py

clean:
	rm -rf $(VENV) build docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
