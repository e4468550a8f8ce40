# make all     set up and run the default study        make test    set up and run the tests
# make env     set up alone                            make lock    resolve pyproject.toml and envs/*.in again
# make env-reader  set up without what trains, into .venv-reader: to look at results after `dvc pull`
# make env-dev     set up with what developers use
# make test-avx2   the tests as on an x86 processor without AVX-512: it rounds otherwise, in torch and in the kernels
# make mutants change one place of the code at a time and see whether a test notices; MUTANTS="tables status" for a part
# make docs    build the pages of README.md and docs/ as a site in .site, and check every link between them
# make pipeline draw docs/pipeline.svg from the rules
# make bench   train the same cells with this engine and with what one would use instead; BENCH="--cells digits" etc.
PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/installed
READER := .venv-reader
DEVELOPMENT := .venv/development
PEERS := .venv/peers
MUTATION := .venv/mutants
SITE := .venv/docs
VALIDATOR := .venv/validator
# All tests, also those that `pytest` alone leaves out, on all processors at once. Those of a file stay together, and files
# in the order of tests/conftest.py. What needs a SLURM skips unless SMALLBATCH_SLURM=required is in the environment.
PYTEST := pytest -m '' --numprocesses auto --dist loadfile --no-loadscope-reorder
LOCK := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
TESTED := --extra training --extra sharing --extra hdf5 --extra tensorboard --extra mlflow --extra wandb --extra development

.PHONY: all bench docs env env-dev env-reader mutants pipeline test test-avx2 lint lock

all: env
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores 8 all

test: env-dev lint $(VALIDATOR)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" SMALLBATCH_VALIDATOR=required $(PYTEST)

test-avx2: env-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		CXX='sh -c "exec c++ \"$$@\" -march=x86-64-v3 -mno-avx512f" c++' $(PYTEST)

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check .
	$(BIN)/mypy

bench: env-dev $(PEERS)/installed
	PYTHONPATH="workflow:benchmarks:$(PEERS)" $(BIN)/python -m speed $(BENCH)

mutants: env-dev $(MUTATION)/installed
	PYTHONPATH="$(CURDIR)/$(MUTATION)" $(BIN)/python tests/mutants/mutants.py $(MUTANTS)

docs: env $(SITE)/installed
	PYTHONPATH="$(CURDIR)/$(SITE)" $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs . .site
	cp .site/README.html .site/index.html

# Of a study that nobody has trained, so that its trainings are among what is to be done.
pipeline: env
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --rulegraph dot --config 'scale={name: picture, epochs: 0.9}' -- all crate \
		| $(BIN)/python docs/pipeline.py docs/pipeline.svg

env: $(ENV)
env-dev: $(DEVELOPMENT)
env-reader: $(READER)/installed

# $(call install,FOLDER,LOCK): uv takes a third of pip's time, and does not stay. Where uv fails, pip may know more, such as
# the address of an index.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --require-hashes --target $(1)/installer --requirement envs/installer.txt
	$(1)/installer/bin/uv pip install --quiet --no-cache --compile-bytecode --python $(1)/bin/python --require-hashes \
		--requirement $(2) || $(1)/bin/python -m pip install --quiet --require-hashes --requirement $(2)
	rm -r $(1)/installer
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endef

$(ENV): envs/installer.txt envs/requirements.txt pyproject.toml
	$(call install,.venv,envs/requirements.txt)
	touch $@

$(READER)/installed: envs/installer.txt envs/reader.txt pyproject.toml
	$(call install,$(READER),envs/reader.txt)
	touch $@

$(DEVELOPMENT): envs/development.txt $(ENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $<
	touch $@

# Beside the project, without a second torch. Where it cannot be had, the table says so.
$(PEERS)/installed: envs/peers.txt $(ENV)
	rm -rf $(PEERS)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --target $(PEERS) --requirement $< && touch $@ \
		|| echo "peers are not installed"

$(MUTATION)/installed: envs/mutants.txt $(DEVELOPMENT)
	rm -rf $(MUTATION)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --target $(MUTATION) --requirement $<
	touch $@

$(SITE)/installed: envs/docs.txt $(ENV)
	rm -rf $(SITE)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --target $(SITE) --requirement $<
	touch $@

# Beside the project, since it needs an older rich than the project has.
$(VALIDATOR)/installed: envs/validator.txt $(ENV)
	rm -rf $(VALIDATOR)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --target $(VALIDATOR) --requirement $<
	touch $@

# The first is resolved alone; the others at its versions: a part of it, and what comes on top. The last goes with none.
lock: env-dev
	echo 'setuptools>=77' | $(BIN)/uv pip compile $(LOCK) pyproject.toml - --extra training --extra sharing \
		--output-file envs/requirements.txt
	echo 'setuptools>=77' | $(BIN)/uv pip compile $(LOCK) pyproject.toml - --extra sharing \
		--constraint envs/requirements.txt --output-file envs/reader.txt
	for beside in "pyproject.toml $(TESTED) --output-file envs/development.txt" \
		"envs/docs.in --output-file envs/docs.txt" "envs/peers.in --output-file envs/peers.txt" \
		"envs/mutants.in --output-file envs/mutants.txt"; do \
		$(BIN)/uv pip compile $(LOCK) $$beside --constraint envs/requirements.txt \
			$$(sed -n 's/^\([[:alnum:]._-]*\)==.*/--no-emit-package \1/p' envs/requirements.txt) || exit; \
	done
	echo uv | $(BIN)/uv pip compile $(LOCK) - --constraint envs/development.txt --output-file envs/installer.txt
	$(BIN)/uv pip compile $(LOCK) envs/validator.in --output-file envs/validator.txt
	$(BIN)/python envs/conda_pins.py
