# make demo     train the digits model on this machine and look at what it learnt
# make test     what every change must pass, with both Megatron versions; what takes longer is below
# make check    what every commit passes: format, lint, types, import contracts, tests
# make test-layouts   every layout of three kinds of models, with both Megatron versions: a day; SHARD=2/100 does a hundredth of it
# make test-matrix    every combination of components, trained a step, saved and loaded, with the newer Megatron: minutes
# make test-crash     a run of two processes, killed two hundred times, with the newer Megatron: minutes; KILLS=60 does it sixty times
# make check-plugins  every check of the conformance kit on every component here: minutes
# make fuzz     ten thousand damaged files of each kind, with the older Megatron: an hour; FILES=1000 does a tenth of it
# make bench    speed, as ratios within one run
# make docs     the page of components, and the code in the authors' pages

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := plugins/loongforge_vit plugins/loongforge_audio plugins/loongforge_projectors plugins/loongforge_llm plugins/loongforge_hf plugins/loongforge_models
EXAMPLE := examples/loongforge_sensor
# Python compiles what it imports, a sixth of it all; compiling everything would be a third of the installation.
# And what builds our packages is there already: an environment of its own for each of them would be a quarter of it.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# The newer Megatron-Core, beside the environment: its metadata asks for Python 3.12, what we use of it runs on 3.11.
NEWER := 0.19.2
NEWER_FOLDER := .megatron-$(NEWER)
# Each command starts Python anew, and hundreds of tests do: what is compiled is kept, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE
# conftest.py refuses to test another Megatron-Core than the one expected.
WITH_OLDER := EXPECT_MEGATRON=$(shell sed -n 's/^megatron-core==//p' constraints.txt)
WITH_NEWER := EXPECT_MEGATRON=$(NEWER) PYTHONPATH=$(CURDIR)/$(NEWER_FOLDER)
MEGATRON_TESTS := tests/parallel tests/testing tests/layers tests/model tests/weights tests/train tests/generate tests/layouts tests/matrix \
	tests/hostile/test_weights.py tests/cli/test_run.py tests/cli/test_several_processes.py plugins examples

# Two at a time: most tests are one thread. In the order of conftest.py: the slowest files first.
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# Which part of all layouts `make test-layouts` tries: the Kth of N.
SHARD ?= 1/1
# How often `make test-crash` kills a run.
KILLS ?= 200
# How many files of each kind `make fuzz` damages.
FILES ?= 10000

.PHONY: demo test fuzz test-layouts test-crash test-matrix check-plugins check format lint types contracts bench docs install clean

demo: install
	$(BIN)/loongforge train digits

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(PLUGINS:=/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing LoongForge and its plugins into $(VENV); the first time takes about a minute ..."
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e . $(addprefix -e ./,$(PLUGINS))
	@touch $@

$(VENV)/test-tools: $(VENV)/installed $(EXAMPLE)/pyproject.toml
	@echo "Installing what the tests need ..."
	$(PIP) --no-build-isolation -e ./$(EXAMPLE) pytest pytest-xdist jsonschema ruff mypy import-linter types-PyYAML types-tqdm build triton
	@touch $@

$(NEWER_FOLDER)/installed: $(VENV)/test-tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --ignore-requires-python --target $(NEWER_FOLDER) --upgrade \
		--python-version 3.12 --implementation cp --only-binary=:all: --platform manylinux_2_28_x86_64 megatron-core==$(NEWER)
	@touch $@

test: $(VENV)/test-tools $(NEWER_FOLDER)/installed
	$(WITH_OLDER) $(BIN)/python -m pytest -q $(IN_PARALLEL)
	@echo "Again with Megatron-Core $(NEWER), what depends on it:"
	$(WITH_NEWER) $(BIN)/python -m pytest -q $(IN_PARALLEL) $(MEGATRON_TESTS)

test-layouts: $(VENV)/test-tools $(NEWER_FOLDER)/installed
	$(WITH_OLDER) $(BIN)/python -m pytest -q tests/layouts --all-layouts=$(SHARD)
	$(WITH_NEWER) $(BIN)/python -m pytest -q tests/layouts --all-layouts=$(SHARD)

test-crash: $(VENV)/test-tools $(NEWER_FOLDER)/installed
	$(WITH_NEWER) $(BIN)/python -m pytest -q -n 2 --dist load tests/train/test_kill.py --kills=$(KILLS)

test-matrix: $(VENV)/test-tools $(NEWER_FOLDER)/installed
	$(WITH_NEWER) $(BIN)/python -m pytest -q -n 2 tests/matrix --whole-matrix

check-plugins: $(VENV)/test-tools
	for plugin in $(notdir $(PLUGINS) $(EXAMPLE)); do $(BIN)/loongforge check-plugin $$plugin || exit 1; done

fuzz: $(VENV)/test-tools
	$(WITH_OLDER) $(BIN)/python -m pytest -q -n 2 tests/fuzz --fuzz $(FILES)

check: lint types contracts test

format: $(VENV)/test-tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/test-tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/test-tools
	$(BIN)/mypy

contracts: $(VENV)/test-tools
	$(BIN)/lint-imports

bench: $(VENV)/test-tools
	$(BIN)/python -m benchmarks

docs: $(VENV)/test-tools
	$(BIN)/python docs/write_components.py
	$(BIN)/python docs/write_pages.py

clean:
	rm -rf $(VENV) $(NEWER_FOLDER) runs build dist
