# Every target makes its own environment first. `make help` says what there is.
PROFILE  ?= laptop
CHAPTERS ?=
SEEDS    ?=
JOBS     ?=
PORT     ?= 8000
PYTHON   ?= python3
.DEFAULT_GOAL := help

BIN       := .venv/bin
INSTALLED := .venv/installed
COMPANION := $(BIN)/companion
SELECTION := $(CHAPTERS) --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))
# One thread a process: chapters and tests run side by side instead, and results do not depend on the number of cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help book run check reference status serve data zoo test lint lock clean

help: ## this list
	@echo "Trust, but Rerun. Variables: PROFILE=smoke|laptop|real|paper CHAPTERS='belt ...' SEEDS=0,1 JOBS=2"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

# The lock's own entry for uv brings uv in, hashes included; uv then installs the whole lock.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Say which to use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	awk '/^[a-zA-Z0-9]/ {uv = /^uv==/} uv' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.txt
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

book: $(INSTALLED) ## run what is missing or stale, then print the book to build/html
	$(COMPANION) build $(SELECTION)

run: $(INSTALLED) ## run chapters without printing them
	$(COMPANION) run $(SELECTION)

check: $(INSTALLED) ## hold the smoke runs against the committed references (numbers, figures, text, verdicts)
	$(COMPANION) check $(CHAPTERS)

reference: $(INSTALLED) ## renew the smoke references; with PROFILE=laptop|real the recorded runs; say what moved
	$(COMPANION) reference $(CHAPTERS) $(if $(filter file,$(origin PROFILE)),,--profile $(PROFILE)) \
	  $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

status: $(INSTALLED) ## every run: age, duration, device, fresh or stale
	$(COMPANION) status

serve: $(INSTALLED) ## show the printed book at http://localhost:$(PORT)
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory build/html

data: $(INSTALLED) ## list the data sets and where they were found
	$(COMPANION) data list

zoo: $(INSTALLED) ## list the base models that ship, and whether digest, recipe and sources are current
	$(COMPANION) zoo list

test: $(INSTALLED) ## every test: library, press, chapters at smoke against their references, the book in a browser
	$(BIN)/python -m pytest $(PYTEST)

lint: $(INSTALLED) ## formatting, static checks, unseeded randomness, notebook rules
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(COMPANION) lint

lock: $(INSTALLED) ## resolve the dependencies of pyproject.toml anew into requirements.lock and environment.yml
	$(COMPANION) lock

clean: ## remove everything generated except the environment
	rm -rf build
