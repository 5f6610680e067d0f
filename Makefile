# Two commands do everything on a fresh machine: `make reproduce` and `make test`.
# PYTHON is the interpreter of the tested row; VENV the environment that is made.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install reproduce test test-all lint format leaderboard reports bench bench-plan bench-data bench-data-endurance clean

# One call, so that everything is resolved together against the pinned set. uv takes a minute where pip takes five, and
# reads no configuration of pip: the wheels and indexes named there are handed over. What uv cannot install, pip does.
DEV := --quiet --constraint constraints.txt --editable ".[dev]"
PIP_CONFIG = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null)
UV := UV_INDEX_STRATEGY=unsafe-best-match $(BIN)/uv pip
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip uv
	UV_FIND_LINKS="$(call PIP_CONFIG,find-links)" UV_EXTRA_INDEX_URL="$(call PIP_CONFIG,extra-index-url)" \
	$(UV) install --python $(BIN)/python $(DEV) || $(BIN)/python -m pip install $(DEV)
	$(BIN)/python -m pip check
	touch $@

install: $(STAMP)

# What a user runs writes below runs/ only, which git ignores.
RECIPE ?= geneformer
reproduce: install
	$(BIN)/scmf reproduce $(RECIPE)

# One process a processor, eight at most; one thread each. A file of tests stays in one process: fixtures are made once.
WORKERS ?= logical
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: install
	$(PYTEST) -m "not nightly"

# Those marked `nightly` too.
test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For maintainers. Committed files change here and with `scmf reproduce NAME --record`, nowhere else: the pages of the
# leaderboard from the committed results; results and report of one recipe, measured again.
leaderboard: install
	$(BIN)/scmf compare all --out leaderboard --history reports/CHANGES.md

reports: install
	$(BIN)/scmf reproduce $(RECIPE) --results leaderboard/results --reports reports

bench: install
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python benchmarks/tokenizer_throughput.py
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python benchmarks/input_pipelines.py

# What `scmf plan` predicts against what training takes here; exit code 1 when it is more than 25 % off.
bench-plan: install
	$(BIN)/python benchmarks/training_plan.py

# Loaders side by side: corpus and interpreters of the peers lie below .cache/bench-data, about an hour and 30 GB the
# first time. Exit code 1 says that a goal was missed; the table is written all the same.
bench-data: install
	$(BIN)/python benchmarks/data_loaders/run.py

bench-data-endurance: install
	$(BIN)/python benchmarks/data_loaders/endurance.py

clean:
	rm -rf $(VENV) runs .cache dist
