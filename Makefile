# make all     set up and run the default study        make test    set up and run the tests
# make env     set up alone                            make lock    resolve envs/requirements.in anew
PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/installed

.PHONY: all env test lint lock

all: env
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores 8 all

test: env lint
	PATH="$(CURDIR)/$(BIN):$$PATH" pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check .

env: $(ENV)

$(ENV): envs/requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock: env
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links envs/requirements.in --output-file envs/requirements.txt
	$(BIN)/python envs/conda_pins.py
