# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
BIN ?= .venv/bin
READY := .venv/.ready
BROWSER := .venv/.browser
COLAB := .venv-colab
RUN := runs/tiny
CELL_SECONDS := 3600

# The local runs use the embedded model and catalogue and never ask a server for anything.
export TC3_PRESET := tiny
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run real test slow attack browser demo check-colab lint notebooks from-colab data clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

# What makes a target's notebooks a run: executed in FOLDER with TC3_PRESET, and the scores printed.
define run_notebooks
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --output-dir $(FOLDER) \
	    --ExecutePreprocessor.timeout=$(CELL_SECONDS) notebooks/0[1-4]*.ipynb \
	    2> >(grep -v 'running over TCP without encryption' >&2)  # true, but it never leaves this machine
	$(BIN)/python tools/settle_progress_bars.py $(FOLDER)/0*.ipynb
	$(BIN)/jupyter nbconvert --log-level WARN --coalesce-streams $(FOLDER)/0*.ipynb
	$(BIN)/python -m tc3lib $(FOLDER)
endef

run: FOLDER := $(RUN)
run: export TC3_HOME = $(abspath $(FOLDER))
run: $(READY)  ## run the four notebooks on the embedded data, on a CPU: results in runs/tiny
	mkdir -p $(FOLDER)
	$(run_notebooks)

real: export TC3_PRESET := smollm2
real: FOLDER := runs/real
real: export TC3_HOME = $(abspath $(FOLDER))
real: $(READY) runs/smollm2-model  ## the same with a real small model, on what Debian's packages are (93 + 16 MB): results in runs/real
	mkdir -p $(FOLDER)
	test -e $(FOLDER)/trn.json || $(BIN)/python data/fetch_debian.py $(FOLDER)/trn.json || echo 'so the embedded catalogue is taken' >&2
	$(run_notebooks)
	$(BIN)/python benchmarks/real.py answers $(FOLDER)

runs/smollm2-model:
	$(BIN)/python data/make_smollm2.py $@

test: export OMP_NUM_THREADS := 1
test: $(READY)  ## run the tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

browser: $(READY) $(BROWSER)  ## run the tests in headless Chromium, which must be installed
	$(BIN)/python -m pytest tests/browser

demo: $(READY) $(BROWSER)  ## ask the models of a finished run on a page: http://127.0.0.1:7860
	$(BIN)/python -m tc3lib.demo $(RUN)

slow: $(READY)  ## run the tests that are long for a reason: kills, flipped bytes, whole runs compared to the bit, llama.cpp compiled
	$(BIN)/python -m pytest -m slow

attack: $(READY)  ## attack harder: kill training 200 times, flip 100,000 bytes of catalogues
	TC3_CRASH=200 TC3_FUZZ=100000 $(BIN)/python -m pytest -m slow tests/whole/test_crash.py tests/whole/test_fuzz.py

check-colab: $(READY)  ## ask the package index whether Colab's packages and ours fit, and run the notebooks with them
	$(BIN)/python tests/runtime/check_colab.py --remake
	rm -rf $(COLAB) && $(PYTHON) -m venv $(COLAB)
	$(COLAB)/bin/pip install --quiet torch==2.13.0
	$(BIN)/python tests/runtime/check_colab.py --list > $(COLAB)/requirements.txt
	$(COLAB)/bin/pip install --quiet --no-deps --only-binary=:all: -r $(COLAB)/requirements.txt
	rm -rf runs/colab
	PYTHONPATH=$(CURDIR) $(MAKE) --no-print-directory run BIN=$(COLAB)/bin READY= BROWSER= RUN=runs/colab

lint: $(READY)  ## check style, and that the notebooks are generated from their sources
	$(BIN)/pre-commit run --all-files

notebooks: $(READY)  ## regenerate notebooks/*.ipynb from notebooks/*.py
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py
	$(BIN)/nbstripout notebooks/*.ipynb

from-colab: $(READY)  ## bring a notebook edited in Colab back: NB=03_train FROM=downloaded.ipynb
	@test -f "$(FROM)" -a -f "notebooks/$(NB).py" || { echo "usage: make from-colab NB=03_train FROM=downloaded.ipynb" >&2; exit 2; }
	$(BIN)/jupytext --quiet --to py:percent --opt notebook_metadata_filter=-all --opt cell_metadata_filter=tags,-all \
	    --output .from-colab.py "$(FROM)"
	{ awk '{print} /^# ---$$/ && ++n == 2 {print ""; exit}' notebooks/$(NB).py; cat .from-colab.py; } > .from-colab.new
	mv .from-colab.new notebooks/$(NB).py && rm .from-colab.py
	$(MAKE) notebooks

data: $(READY)  ## remake data/trn.json and data/base_model from their scripts (on a CPU the model takes hours)
	$(BIN)/python data/make_catalogue.py
	$(BIN)/python data/make_base_model.py

clean:  ## forget the environment and what make run left; other runs stay
	rm -rf .venv $(COLAB) runs/tiny runs/colab tc3lib.egg-info .pytest_cache .ruff_cache

$(READY): requirements-cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --no-deps -r requirements-cpu.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(BROWSER): $(READY) requirements-browser.txt requirements-demo.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-browser.txt -r requirements-demo.txt
	touch $@
