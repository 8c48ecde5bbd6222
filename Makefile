# make demo    try the bot in a local page: no GPU, no accounts     (ONCE='/joke topic:cats' for the terminal)
# make test    lint, types and all tests
# make coverage  all tests, and which lines none of them runs
# make test-avx2  the tests of inference as on a processor without AVX512, which most laptops and desktops have
# make run     start the bot on Discord, configured by .env
# make bench   how fast the whole bot answers 1 to 32 people, beside a bare model.generate
# make gpu     whether all of it works on a GPU, and how fast, in at most 450 s       (ARGS=--tiny: on a CPU, in small)
# make soak    the whole bot for minutes among random people, faults and kills  (MINUTES=5 KILLS=3 SEED=…)
# make pictures  the README's picture, taken anew

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Processes that run tests beside each other; each may load the embedded model, which takes 1 GB.
WORKERS ?= 2

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test style types beside alone coverage test-avx2 run bench gpu soak pictures lint clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Punchline needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/python -m bot pull smol >/dev/null
ifdef ONCE
	@$(BIN)/python -m bot demo --once "$$ONCE"
else
	@$(BIN)/python -m bot demo
endif
export ONCE

lint: style types

# mypy runs beside the first tests: without its cache it takes a minute and a half on one core.
test: style
	$(MAKE) --no-print-directory --jobs=2 types beside
	$(MAKE) --no-print-directory alone

# Not a part of `make test`: watching every line makes the tests a quarter slower.
coverage:
	$(MAKE) --no-print-directory beside COVER="--cov --cov-report="
	$(MAKE) --no-print-directory alone COVER="--cov --cov-append --cov-report=term"

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

beside: $(READY)
	$(BIN)/python -m bot pull smol
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not alone" $(COVER)

# These tests measure real time. Collecting every file to find them would take longer than some of them.
ALONE = $(shell grep -rl --include='test_*.py' 'pytest.mark.alone' tests)
alone: $(READY)
	$(BIN)/python -m pytest -m alone $(ALONE) $(COVER)

# On a processor that has none of what is switched off here, that is what `make test` has run already.
test-avx2: $(READY)
	$(BIN)/python -m bot pull smol
	PYTHONPATH=$(CURDIR)/tests/avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/inference tests/bench tests/test_end_to_end.py

run: $(READY)
	@$(BIN)/python -m bot run

bench: $(READY)
	$(BIN)/python -m bot bench

# benchmarks/gpu/README.md says what it shows, and how to run it where there is no package index.
gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

MINUTES ?= 5
KILLS   ?= 3
soak: $(READY)
	$(BIN)/python -m bot pull smol
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --kills $(KILLS) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage

pictures: $(READY)
	$(BIN)/python -m tests.pictures
