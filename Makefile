# Every command sets up .venv by itself when requirements.lock has changed. Needs Python 3.11, git and make.
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export BENTOML_DO_NOT_TRACK := True
PORT ?= 3000

.PHONY: help setup repro test test-all lint serve import search bench readme lock

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready ## set up .venv

.venv/.ready: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or run make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: see above; on Debian and Ubuntu: apt install python3.11-venv"; exit 1; }
	@command -v uv >/dev/null || .venv/bin/python -m pip install -q uv
	uv pip install -q --python .venv/bin/python -r requirements.lock
	@touch $@

repro: setup ## run the pipeline with the committed params, then show the figures
	@python -m strokect.preflight
	dvc repro
	@python -m strokect.summary

test: setup ## the fast tests
	python -m pytest -m "not slow and not realdata and not browser and not gpu"

test-all: setup ## all tests: slow, real data and browser (where they are), GPU (where there is one)
	python -m pytest

lint: setup ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

serve: setup ## serve the built bento on http://127.0.0.1:$(PORT)
	@test -f models/release/manifest.json || { echo "error: models/release is missing; run make repro first"; exit 1; }
	bentoml serve . --host 127.0.0.1 --port $(PORT)

import: setup ## bring a data set in: make import SOURCE=kaggle_ct_ich FROM=/path/to/folder
	@python -m strokect.import_data "$(SOURCE)" "$(FROM)"

search: setup ## hyperparameter search with the params as they stand (docs/search.md); goes on where it was stopped
	@python -m strokect.preflight
	dvc repro -q split
	@python -m strokect.search

bench: setup ## the benchmarks, into metrics/bench/; those of the statistics last
	python -m benchmarks.pipeline
	python -m benchmarks.prepare
	python -m benchmarks.audit
	python -m benchmarks.shuffle_control
	python -m benchmarks.planted_leaks
	python -m benchmarks.serve
	python -m benchmarks.service
	python -m benchmarks.bento_start
	python -m benchmarks.train
	python -m benchmarks.simulations

readme: setup ## fill the marked blocks of README.md from the metrics
	python -m docs.update_readme

lock: setup ## pin requirements.in into requirements.lock
	uv pip compile -q --no-emit-index-url --no-emit-find-links --python-version 3.11 requirements.in -o requirements.lock
