# Everything a person types. The virtual environment in .venv is made on demand; each target installs only the
# group of packages that it needs (pyproject.toml), at the versions in constraints/, and again when those change.
#
#   make serve PORT=9000 HOST=0.0.0.0 ARGS='--workers 2'
#   make train RECIPE=small_nested DATA=photos.zip ARGS='--minutes 30'
#   make test PYTHON=python3.12 PIP_ARGS='--extra-index-url …'

PYTHON ?= python3
HOST ?= $(or $(ANYTIME_HOST),127.0.0.1)
PORT ?= $(or $(ANYTIME_PORT),8000)
IMAGE ?= anytime:latest
RECIPE ?= digits
DATA ?= digits
RUN ?= $(RECIPE)
ARGS ?=
PIP_ARGS ?=

# Importing onnxruntime makes a device id and queues events for its maker; only this variable stops that in time.
export ORT_DISABLE_TELEMETRY := 1

VENV := .venv
BIN := $(VENV)/bin/
PIP := $(BIN)python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check train export bench bench-serve bench-replay bench-overload bench-accuracy bench-schedule bench-engines bench-train docker lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

serve: $(VENV)/.serve $(VENV)/.compiled ## start the service with the shipped model (PORT=, HOST=, ARGS=)
	$(BIN)python -m server --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/.test $(VENV)/.compiled ## run every test (ARGS= goes to pytest)
	$(BIN)python -m pytest $(ARGS)

check: $(VENV)/.test ## ruff, mypy --strict, import contracts, Dockerfile and compose file
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)lint-imports
	$(BIN)hadolint Dockerfile
	$(BIN)check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

train: $(VENV)/.train ## train a FractalNet (RECIPE=, DATA=, ARGS=; alone: scikit-learn's digits, in a minute or two)
	$(BIN)python -m training train $(RECIPE) --name $(RUN) --data $(DATA) $(ARGS)

export: $(VENV)/.train ## publish the finished run RUN= as a served model (DATA=, ARGS=)
	$(BIN)python -m training export $(RUN) --data $(DATA) $(ARGS)

bench: bench-serve bench-overload bench-accuracy ## every measurement over HTTP on this machine

bench-serve: $(VENV)/.bench $(VENV)/.compiled ## sequential requests beside a bare endpoint; the front end's cost
	$(BIN)python -m loadtest serve $(ARGS)

bench-overload: $(VENV)/.bench $(VENV)/.compiled ## open-loop load at multiples of capacity
	$(BIN)python -m loadtest overload $(ARGS)

bench-replay: $(VENV)/.bench $(VENV)/.compiled ## the same arrivals into a real engine process, without HTTP
	$(BIN)python -m loadtest replay --out docs/results $(ARGS)

bench-accuracy: $(VENV)/.bench $(VENV)/.compiled ## every test image once over HTTP, without hurry
	$(BIN)python -m loadtest accuracy $(ARGS)

bench-engines: $(VENV)/.engines ## every installed runtime beside torch, per stage and batch (ARGS=--quick: a first look)
	$(BIN)python -m loadtest engines --out docs/results $(ARGS)

bench-schedule: $(VENV)/.bench $(VENV)/.compiled ## the scheduler, baselines and bounds in the simulator (ARGS=--quick: a minute)
	$(BIN)python -m loadtest schedule --out docs/results/scheduling.md $(ARGS)

bench-train: $(VENV)/.train ## images/s of the training step beside a plain PyTorch loop (ARGS=)
	$(BIN)python -m training bench $(ARGS)

docker: ## build the serving image (IMAGE=)
	docker build --tag $(IMAGE) .

# One resolution for all groups and for CPython 3.11 and newer; torch pins the CUDA libraries of its own build.
RESOLVE = $(BIN)uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
lock: $(VENV)/.test ## resolve constraints/ anew (ARGS=--upgrade takes newer versions)
	$(PIP) uv==0.13.9
	$(RESOLVE) --extra serve --extra train --extra loadtest --extra dev $(ARGS) \
		--output-file constraints/all.txt pyproject.toml
	sed -i -E '/^(nvidia-|cuda-|triton)/d' constraints/all.txt
	$(RESOLVE) --extra serve --generate-hashes --constraint constraints/all.txt \
		--output-file constraints/serve.txt pyproject.toml
	$(RESOLVE) --extra compile --generate-hashes --constraint constraints/all.txt \
		--output-file constraints/compile.txt pyproject.toml

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Anytime needs Python 3.11 or newer, \
	and %s is Python %d.%d. Name another one: make PYTHON=python3.12 ..." % (sys.executable, v[0], v[1]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: \
	install its venv package (Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: constraints/serve.txt | $(BIN)python
	@echo 'Installing the serve group into $(VENV) (half a minute to two minutes, once)'
	$(PIP) --require-hashes -r $<
	@touch $@

# Only where there is a C compiler; without it the policy runs from its sources.
$(VENV)/.compiled: constraints/compile.txt deploy/compile.py server/compiled.py $(wildcard server/engine/*.py) | $(BIN)python
	@if $(BIN)python deploy/compile.py --check; then \
		echo 'Compiling the policy (a quarter of a minute, once and after changes)'; \
		$(PIP) --require-hashes -r $< && $(BIN)python deploy/compile.py; \
	fi
	@touch $@

$(VENV)/.train: GROUPS := train
$(VENV)/.bench: GROUPS := serve,loadtest
$(VENV)/.engines: GROUPS := serve,train,loadtest
$(VENV)/.test: GROUPS := serve,train,loadtest,dev
$(VENV)/.train $(VENV)/.bench $(VENV)/.engines $(VENV)/.test: constraints/all.txt pyproject.toml | $(BIN)python
	@echo 'Installing into $(VENV): $(GROUPS) (some minutes where torch is among it, once)'
	$(PIP) --constraint constraints/all.txt --editable '.[$(GROUPS)]'
	@touch $@
