PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# This wheel is a whole Milvus server with its store and queue, for x86-64 Linux; it has an environment of its own.
MILVUS_VERSION := 2.3.5
MILVUS_VENV    := .venv-milvus

# Spark and Ray are no requirements of anything here; they have an environment of their own.
CLUSTER_VENV := .venv-cluster

HOST ?= 0.0.0.0
PORT ?= 5000

PRODUCTS ?= data/products.jsonl.gz
CHANGES  ?= changes.jsonl
QUERIES  ?= $(if $(subst data/products.jsonl.gz,,$(PRODUCTS)),,data/users_batch.json)
OUT      ?= artifacts
RECALL   ?= 0.99
ARGS     ?=

IMAGE ?= jetmlett

# Quotes the name of a file for the shell, as it may hold spaces.
quote = '$(subst ','\'',$(1))'

BUILD_INDEX = $(BIN)/python -m index_builder --products $(call quote,$(PRODUCTS)) --out $(call quote,$(OUT)) --recall $(RECALL) $(if $(QUERIES),--queries $(call quote,$(QUERIES))) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install install-parquet install-milvus serve build-index update-index merge-index test test-faults test-milvus test-cluster test-install coverage soak audit check format bench bench-serve bench-index bench-search bench-filter bench-lists bench-update bench-storage bench-offline bench-oip lock sample-data docker docker-run clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

serve: $(VENV)/.runtime $(if $(RECO_ARTIFACTS),,artifacts/CURRENT) ## fresh checkout to a running service (HOST=, PORT=, RECO_ARTIFACTS=)
	RECO_HOST=$(HOST) RECO_PORT=$(PORT) RECO_ARTIFACTS=$(call quote,$(or $(RECO_ARTIFACTS),artifacts)) $(BIN)/python -m service serve

install: $(VENV)/.dev ## the virtual environment with everything that development needs

install-parquet: $(VENV)/.runtime ## what reads and writes Parquet, beside what the service runs on
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt pyarrow

install-milvus: $(VENV)/.runtime ## what talks to Milvus, beside what the service runs on
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt pymilvus

build-index: $(VENV)/.runtime ## build and publish an index (PRODUCTS=, QUERIES=, RECALL=, OUT=, ARGS=)
	$(BUILD_INDEX)

update-index: $(VENV)/.runtime ## publish changes of products on the current index (CHANGES=, OUT=, ARGS=)
	$(BIN)/python -m index_builder --update $(call quote,$(CHANGES)) --out $(call quote,$(OUT)) $(ARGS)

merge-index: $(VENV)/.runtime ## publish the current index and its changes as one (OUT=, ARGS=)
	$(BIN)/python -m index_builder --merge --out $(call quote,$(OUT)) $(ARGS)

# Some environments forbid compiled files, without which each of the suite's many processes compiles the code anew.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev ## the whole test suite (ARGS= for pytest)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

test-faults: export PYTHONDONTWRITEBYTECODE =
test-faults: $(VENV)/.dev ## the faults that take seconds each to show (ARGS= for pytest)
	$(BIN)/python -m pytest -m "slow and not soak" --numprocesses 3 --dist loadfile $(ARGS)

test-milvus: export PYTHONDONTWRITEBYTECODE =
test-milvus: $(VENV)/.dev $(MILVUS_VENV)/.server-$(MILVUS_VERSION) ## all tests on Milvus, on Lite and against a standalone server (ARGS= for pytest)
	$(BIN)/python -m pytest tests -m milvus --numprocesses 3 --dist loadfile $(ARGS)
	$(BIN)/python -m pytest tests -m milvus --milvus-server=$(MILVUS_VENV)/bin/python --numprocesses 3 --dist loadfile $(ARGS)

test-cluster: export PYTHONDONTWRITEBYTECODE =
test-cluster: $(CLUSTER_VENV)/.installed ## batches in Spark's executors and in Ray's actors (needs Java; ARGS= for pytest)
	@command -v java >/dev/null || { echo "Java is not installed: apt-get install default-jre-headless"; exit 1; }
	$(CLUSTER_VENV)/bin/python -m pytest tests/cluster -W default $(ARGS)

test-install: export PYTHONDONTWRITEBYTECODE =
test-install: $(VENV)/.dev ## the wheel in an environment of its own, and README's commands in a fresh clone (ARGS= for pytest)
	$(BIN)/python -m pytest tests/install $(ARGS)

coverage: $(VENV)/.dev ## share of lines and branches that the suite runs, worker processes included; never fails
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest --numprocesses 3 --dist loadfile $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(VENV)/.dev ## the long proofs: stops, reloads, kills, overload, ten minutes of load; then their figures
	rm -f soak.jsonl
	RELIABILITY_FIGURES=$(CURDIR)/soak.jsonl $(BIN)/python -m pytest -m soak $(ARGS)
	$(BIN)/python -m benchmarks.reliability soak.jsonl

audit: $(VENV)/.dev ## known vulnerabilities of what the service runs on
	$(BIN)/pip-audit --requirement requirements.txt --no-deps --disable-pip

check: $(VENV)/.dev ## formatting, lint, types, import directions, import graph and sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/structure

format: $(VENV)/.dev ## format the code and apply lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-serve ## measure the service, and what the sample's answers are worth
	$(BIN)/python -m benchmarks.quality

bench-serve: $(VENV)/.dev ## drive the service with wrk (BASE= compares a revision; ARGS="--start 1000000" starts a large one too)
	@command -v wrk >/dev/null || { echo "wrk is not installed: apt-get install wrk"; exit 1; }
	$(BIN)/python -m benchmarks.serve $(if $(BASE),--base $(BASE)) $(ARGS)

bench-index: $(VENV)/.dev .venv-bench/.installed ## the builder's choice against others (DATA="words gaussian:8", SIZES="20000 200000", ARGS=--write)
	$(BIN)/python -m benchmarks.index $(if $(DATA),--data $(DATA)) $(if $(SIZES),--sizes $(SIZES)) $(ARGS)

bench-filter: $(VENV)/.dev ## searches under masks of any share against the same without one, and pgvector (SIZES="20000 200000 1000000")
	$(BIN)/python -m benchmarks.filters $(if $(SIZES),--sizes $(SIZES)) $(ARGS)

bench-lists: $(VENV)/.dev ## what diversity and limits by value do to lists, and the time they take (ARGS="--users 1000")
	$(BIN)/python -m benchmarks.lists $(ARGS)

bench-update: $(VENV)/.dev ## changes: command to answers, searches with a delta, merges, a delta a second (SIZES="20000 1000000", ARGS=--write)
	$(BIN)/python -m benchmarks.updates $(if $(SIZES),--sizes $(SIZES)) $(ARGS)

bench-search: $(VENV)/.dev ## both sides of a search against FAISS's own (ARGS="--products 200000")
	$(BIN)/python -m benchmarks.search $(ARGS)

bench-storage: $(VENV)/.dev ## bytes that a build takes by storage and worst side
	$(BIN)/python -m benchmarks.storage $(ARGS)

bench-offline: $(VENV)/.dev ## users/s of an offline batch against the search alone (ARGS="--users 200000" for fewer than a million)
	$(BIN)/python -m benchmarks.offline $(ARGS)

bench-oip: $(VENV)/.dev ## 1,000 users as tensors of the Open Inference Protocol, against JSON /batch
	$(BIN)/python -m benchmarks.oip $(ARGS)

lock: $(VENV)/.dev ## resolve pyproject.toml into the pinned requirements files
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-find-links --no-emit-index-url --output-file requirements.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-find-links --no-emit-index-url --extra dev --extra parquet --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-find-links --no-emit-index-url --extra cluster --constraint requirements.txt --output-file requirements-cluster.txt pyproject.toml

sample-data: ## make data/ again from its sources (installs spaCy and 40 MB of word vectors into .venv-data)
	test -d .venv-data || $(PYTHON) -m venv .venv-data
	.venv-data/bin/pip install --quiet --requirement data/requirements.txt
	.venv-data/bin/python data/make_sample_data.py

docker: ## build the image
	docker build --tag $(IMAGE) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) .

docker-run: docker ## build and run the image (PORT=)
	docker run --rm --publish $(PORT):5000 $(IMAGE)

clean: ## remove virtual environments, caches and built indexes
	rm -rf $(VENV) $(MILVUS_VENV) $(CLUSTER_VENV) .venv-bench .venv-data artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv-bench/.installed: benchmarks/requirements.txt
	test -d .venv-bench || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	touch $@

artifacts/CURRENT: | $(VENV)/.runtime
	$(MAKE) build-index OUT=artifacts

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.dev: requirements-dev.txt | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@

$(CLUSTER_VENV)/.installed: requirements-cluster.txt
	test -d $(CLUSTER_VENV) || $(PYTHON) -m venv $(CLUSTER_VENV)
	$(CLUSTER_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-cluster.txt
	touch $@

$(MILVUS_VENV)/.server-$(MILVUS_VERSION):
	rm -rf $(MILVUS_VENV)
	$(PYTHON) -m venv $(MILVUS_VENV)
	$(MILVUS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps milvus==$(MILVUS_VERSION) || \
		{ echo "make test-milvus needs milvus $(MILVUS_VERSION), which cannot be installed here; $(BIN)/python -m pytest tests -m milvus runs the tests on Milvus Lite"; exit 1; }
	$(MILVUS_VENV)/bin/python -c "import milvus; milvus._initialize_data_files('$(MILVUS_VENV)/server')"
	touch $@
