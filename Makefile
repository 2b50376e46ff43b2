# The commands of this project. `make help` lists them.
#
# Everything is installed below this directory: .venv (the product), .venv-published (the published client, for its
# tests), .venv-bench (peers and load of the benchmarks), .venv-examples, .venv-docs (what builds the documentation site),
# .cache (models). A stamp file inside each remembers what it was made from, so a repeated command is quick.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Python 3.11 or newer; the locked dependencies were resolved for 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

# `make run DATA=/srv/skafos CONTROL=127.0.0.1:9000 EDGE=127.0.0.1:9001 WORKERS=4 DEMO=no`
DATA ?= .skafos
CONTROL ?= 127.0.0.1:8800
EDGE ?= 127.0.0.1:8801
WORKERS ?= 2
DEMO ?= yes
# `make bench SETUP=no` does not time the set-up of an empty clone, which downloads everything once more.
SETUP ?= yes

# `make bench-edge ROUNDS=1 SECONDS=1 CASES="304-64 latency"`: a part of it, quickly; tables are only printed then.
ROUNDS ?= 5
SECONDS := 2
MINUTES ?= 10
CASES ?=

# `make bench-telemetry EVENTS=1000000 ONLY="waiting seeing" FOLDER=/srv/bench`: another population, a part, where files are
# made; tables are only printed when it is a part. `make bench-questions ENGINES=server` asks one of the two engines.
EVENTS ?=
ONLY ?=
FOLDER ?=
ENGINES ?=

# `make bench-patches PAIRS="silero-5.1-6.0 text-adam-f32"`: a part of it; tables are only printed then. FRESH=yes measures
# the other tools again, whose results are kept.
PAIRS ?=
FRESH ?= no

KILLS ?= 100
SEED ?= 1

VENV := .venv
BENCH_VENV := .venv-bench
PUBLISHED_VENV := .venv-published
LOCK_VENV := .venv-lock
EXAMPLES_VENV := .venv-examples
DOCS_VENV := .venv-docs
DOCS := build/docs
BIN := $(VENV)/bin

# The servers that the tests talk to (ZooKeeper, which a cluster of ClickHouse needs, as a library and Java), a browser that
# talks to ours, what checks the units of systemd and the rules of Prometheus, and a compiler for the load generator.
# `make run` needs none of them.
DEBIAN_PACKAGES := redis-server postgresql clickhouse-server libzookeeper-java default-jre-headless nginx haproxy systemd \
	prometheus zstd chromium gcc libc6-dev

.PHONY: help setup setup-dev packages bench-packages models examples run test test-kills check docs bench bench-edge bench-telemetry bench-questions bench-push bench-patches bench-pages lock clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# --- Setting up ------------------------------------------------------------------------------------------------------

setup: $(VENV)/.stamp-product ## create .venv with the product's locked dependencies
setup-dev: packages $(VENV)/.stamp-dev $(PUBLISHED_VENV)/.stamp ## also what the tests and checks need

# Debian splits ensurepip off into python3-venv. Without it, a pip that is already there (version 22.3 or newer) can
# install into an environment that has none; so neither root nor a Debian package is needed.
define create_venv
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@if "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then "$(PYTHON)" -m venv --clear $(1); \
	elif "$(PYTHON)" -m pip --version >/dev/null 2>&1; then \
		"$(PYTHON)" -m venv --clear --without-pip $(1) && "$(PYTHON)" -m pip --python $(1)/bin/python install -q pip; \
	else echo "This Python can make no virtual environment with pip. Install Debian's package python3-venv" \
		"(apt-get install python3-venv) or pip (python3-pip), then run make again." >&2; exit 1; fi
endef

$(VENV)/bin/python:
	@echo "Creating $(VENV) with $(PYTHON) …"
	$(call create_venv,$(VENV))

# The build tool is locked as well, and is used in place of an isolated, unlocked one.
$(VENV)/.stamp-product: requirements.txt requirements-build.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the locked dependencies …"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements.txt -r requirements-build.txt
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.txt $(VENV)/.stamp-product
	@echo "Installing what the tests and checks need …"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements-dev.txt
	@touch $@

$(PUBLISHED_VENV)/.stamp: requirements-published-client.txt
	@echo "Creating $(PUBLISHED_VENV) with the published client …"
	$(call create_venv,$(PUBLISHED_VENV))
	@$(PUBLISHED_VENV)/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

$(BENCH_VENV)/.stamp: bench/requirements.txt
	@echo "Creating $(BENCH_VENV) with granian, locust, bsdiff4 and hdiffpatch …"
	$(call create_venv,$(BENCH_VENV))
	@$(BENCH_VENV)/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

$(DOCS_VENV)/.stamp: docs/site/requirements.txt
	@echo "Creating $(DOCS_VENV) with Sphinx, MyST and Furo …"
	$(call create_venv,$(DOCS_VENV))
	@$(DOCS_VENV)/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

$(EXAMPLES_VENV)/.stamp: examples/requirements.txt requirements-build.txt pyproject.toml
	@echo "Creating $(EXAMPLES_VENV) with the clients of Skafos, onnx and onnxruntime …"
	$(call create_venv,$(EXAMPLES_VENV))
	@$(EXAMPLES_VENV)/bin/python -m pip install -q --require-hashes -r $< -r requirements-build.txt
	@$(EXAMPLES_VENV)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(BENCH_VENV)/.stamp-torch: bench/requirements-torch.txt $(BENCH_VENV)/.stamp | bench-packages
	@echo "Adding PyTorch and zipnn …"
	@$(BENCH_VENV)/bin/python -m pip install -q -r $<
	@touch $@

# Servers are only wanted as programs. Debian would start them as services, nginx on port 80; policy-rc.d(8) keeps it from
# that. $$missing names the packages.
define install_missing
	echo "Installing Debian's packages:$$missing …"; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq; apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

packages:
	@missing=""; \
	for package in $(DEBIAN_PACKAGES); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "Tests that need these servers will be skipped; this machine has no apt-get:$$missing"; exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "Tests that need these servers will be skipped. To run them: sudo apt-get install$$missing"; exit 0; fi; \
	$(install_missing)

# A program, and the package that has it. A variable of a target holds for what the target needs first as well.
bench-edge: PROGRAMS := nginx:nginx wrk:wrk cc:gcc cc:libc6-dev
bench-telemetry: PROGRAMS := clickhouse-server:clickhouse-server wrk:wrk cc:gcc cc:libc6-dev
bench-questions: PROGRAMS := clickhouse-server:clickhouse-server wrk:wrk cc:gcc cc:libc6-dev
bench-patches: PROGRAMS := xdelta3:xdelta3 zstd:zstd xz:xz-utils cc:gcc cc:libc6-dev

bench-packages:
	@missing=""; export PATH="$$PATH:/usr/sbin"; \
	for pair in $(PROGRAMS); do \
		command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "The benchmark needs programs that only root can install: sudo apt-get install$$missing" >&2; exit 1; fi; \
	$(install_missing)

models: setup ## fetch the real models of the demonstration and the tests into .cache/models
	@$(BIN)/python -m bench.corpus

examples: $(EXAMPLES_VENV)/.stamp ## create .venv-examples with what examples/ needs
	@echo "source $(EXAMPLES_VENV)/bin/activate, then go on with examples/README.md"

# --- Using -----------------------------------------------------------------------------------------------------------

run: setup $(if $(filter yes,$(DEMO)),models) ## start Skafos with its demonstration (DEMO=no: without)
	@exec $(BIN)/skafos up --data "$(DATA)" --control "$(CONTROL)" --edge "$(EDGE)" --workers "$(WORKERS)" \
		$(if $(filter yes,$(DEMO)),--demo)

test: setup-dev models ## run all tests against real servers
	@$(BIN)/pytest

# Half an hour on two cores. `make test-kills KILLS=20 SEED=7`: fewer of them, at other moments.
test-kills: setup-dev ## kill devices and what events, registrations and pushes pass through, 100 times each, and count
	@SKAFOS_TEST_KILLS="$(KILLS)" SKAFOS_TEST_SEED="$(SEED)" $(BIN)/pytest -n 0 -s tests/flows/test_kills.py \
		tests/control_plane/push/test_worker_kills.py tests/control_plane/test_registration_kills.py \
		tests/telemetry/test_spare_segments.py tests/flows/test_device_killed.py

check: $(VENV)/.stamp-dev ## style, formatting, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The product's environment makes the pages on its API, the other one builds. From an empty folder, so that a page that is
# gone leaves nothing behind.
docs: $(VENV)/.stamp-product $(DOCS_VENV)/.stamp ## build the documentation site into build/docs/html, and check its links
	@rm -rf $(DOCS)
	@$(BIN)/python docs/site/stage.py $(DOCS)/source
	@$(DOCS_VENV)/bin/python -m sphinx -q -W --keep-going -j auto -b html -c docs/site -d $(DOCS)/doctrees $(DOCS)/source $(DOCS)/html
	@$(BIN)/python docs/site/check_links.py $(DOCS)/html

bench: $(VENV)/.stamp-dev models ## measure sizes and times, and write docs/performance.md
	@$(BIN)/python -m bench.sizes $(if $(filter yes,$(SETUP)),--setup) --write docs/performance.md

bench-edge: $(VENV)/.stamp-dev $(BENCH_VENV)/.stamp bench-packages ## measure the edge beside nginx, aiohttp and granian
	@$(BIN)/python -m bench.edge --rounds "$(ROUNDS)" --seconds "$(SECONDS)" --minutes "$(MINUTES)" \
		$(if $(strip $(CASES)),--cases "$(CASES)",--write docs)

bench-telemetry: $(VENV)/.stamp-dev bench-packages ## measure events from the edge to the answers, against a known truth
	@$(BIN)/python -m bench.telemetry $(if $(strip $(EVENTS)),--events "$(EVENTS)") \
		$(if $(strip $(FOLDER)),--folder "$(FOLDER)") $(if $(strip $(ONLY)),--cases "$(ONLY)",--write docs)

bench-questions: $(VENV)/.stamp-dev bench-packages ## ask every question over 50 million events, against a known truth
	@$(BIN)/python -m bench.telemetry --cases questions --events "$(or $(strip $(EVENTS)),51000000)" --write docs \
		$(if $(strip $(FOLDER)),--folder "$(FOLDER)") $(if $(strip $(ENGINES)),--engines "$(ENGINES)")

bench-push: $(VENV)/.stamp-dev ## measure how fast one worker pushes, its memory, when a push begins, and registrations
	@$(BIN)/python -m bench.push $(if $(strip $(DEVICES)),--only pace --devices "$(DEVICES)" --rounds 1 --servers later,--write docs)

bench-patches: $(VENV)/.stamp-dev bench-packages $(BENCH_VENV)/.stamp-torch ## measure patches beside those of other tools
	@$(BIN)/python -m bench.patches.corpus
	@$(BIN)/python -m bench.patches $(if $(filter yes,$(FRESH)),--fresh) \
		$(if $(strip $(PAIRS)),--pairs "$(PAIRS)",--write docs/performance.md)

bench-pages: $(VENV)/.stamp-dev ## measure the dashboard's pages with 1,000 models and 10,000 versions
	@$(BIN)/python -m bench.pages --write docs

# --- Keeping ---------------------------------------------------------------------------------------------------------

# No address of a registry is written: pip's own configuration says where packages come from.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(LOCK_VENV)/bin/pip-compile --quiet --upgrade --generate-hashes \
	--allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock: ## resolve the dependencies anew and write the locked requirements
	$(call create_venv,$(LOCK_VENV))
	@$(LOCK_VENV)/bin/python -m pip install -q pip-tools
	$(COMPILE) pyproject.toml --output-file requirements.txt
	$(COMPILE) pyproject.toml --extra dev --constraint requirements.txt --output-file requirements-dev.txt
	echo 'setuptools>=68' | $(COMPILE) - --output-file requirements-build.txt
	$(COMPILE) bench/requirements.in --output-file bench/requirements.txt
	$(COMPILE) docs/site/requirements.in --constraint requirements-dev.txt --output-file docs/site/requirements.txt
	$(COMPILE) examples/requirements.in --constraint requirements-dev.txt --output-file examples/requirements.txt
	$(COMPILE) integrations/github-action/requirements.in --constraint requirements.txt \
		--output-file integrations/github-action/requirements.txt
	echo 'skafos==0.3.0' | $(COMPILE) - --output-file requirements-published-client.txt

clean: ## remove everything that was installed or cached here, but not the data
	rm -rf $(VENV) $(BENCH_VENV) $(PUBLISHED_VENV) $(LOCK_VENV) $(EXAMPLES_VENV) $(DOCS_VENV) .cache .mypy_cache .ruff_cache \
		.pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
