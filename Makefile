# `make demo` and `make test` need Python 3.11, make and a C compiler; everything else they install.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN := OMP_NUM_THREADS=1 $(BIN)

.PHONY: help demo test lint types contracts check clean

help:
	@echo "make demo   a discovery campaign in Li-P-S-Cl; the report is demo/li-p-s-cl/report.html"
	@echo "make test   the tests, with line coverage"
	@echo "make check  lint, types, import contracts"
	@echo "make clean  remove the environment and the demo's results"

demo: $(VENV)/installed
	$(RUN)/matterloop run examples/li-p-s-cl.yaml --folder demo

# Two processes: the tests start worker processes of their own, and modules share finished campaigns.
test: $(VENV)/installed-dev
	$(RUN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term:skip-covered

check: lint types contracts

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the mapping of folders into the package; a link shows it the way.
types: $(VENV)/installed-dev
	mkdir -p .typecheck && ln -sfn .. .typecheck/matterloop
	MYPYPATH=.typecheck $(BIN)/mypy --namespace-packages --explicit-package-bases \
	  -p matterloop.loop -p matterloop.agents -p matterloop.adapters -p matterloop.flows

contracts: $(VENV)/installed-dev
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

# Torch first and alone: a plain `pip install torch` brings several GB of CUDA libraries.
$(VENV)/torch: constraints.txt | $(BIN)/python
	sh scripts/install-torch $(BIN)/python
	@touch $@

$(VENV)/installed: pyproject.toml constraints.txt $(VENV)/torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
