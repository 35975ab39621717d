# `make run` starts Sightline, `make test` tests it. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard protos/sightline/v1/*.proto)
STUBS := sightline/v1/.written
EXTRAS := common,gateway,inference-worker,dialogue,tts,training,media,local,dev

.PHONY: setup run test check proto train eval bench bench-engine bench-gpu docs dashboard compose-test helm-test siege tune tune-test help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml $(wildcard services/*/requirements.txt) $(wildcard training/*.txt) $(wildcard sightline/*.txt) $(wildcard deploy/*.txt)
	$(PYTHON) -c 'import sys; sys.exit("Sightline needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[$(EXTRAS)]'
	@touch $@

$(STUBS): $(VENV)/.installed $(PROTOS)
	@mkdir -p sightline/v1
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)
	@touch sightline/v1/__init__.py $@

proto: $(STUBS) ## write the gRPC stubs
setup: $(STUBS) ## make .venv, install, write the stubs

# Settings are variables: make run SOURCE=clip.mp4 WORKERS=2 GATEWAY_HTTP_PORT=8081
run: setup ## start the whole suite here, show it a video and ask about that
	@$(BIN)/python -m services $(ARGS)

test: setup ## run every test
	$(BIN)/python -m pytest $(ARGS)

siege: setup ## a gateway under siege, and every port fed with nonsense
	$(BIN)/python -m pytest -m 'slow or not slow' tests/integration/test_siege.py tests/integration/test_fuzz.py $(ARGS)

tune-test: setup ## tune on real footage and ask the running worker
	$(BIN)/python -m pytest -m slow tests/integration/test_tune.py $(ARGS)

train: setup ## train the built-in model by its recipe, from the model of shapes
	$(BIN)/python -m training train $(ARGS)

tune: setup ## teach a model from your own video: make tune ARGS="--data clips.jsonl --output DIR"
	$(BIN)/python -m training tune $(ARGS)

eval: setup ## examine a model through the running engine: make eval ARGS="--world shop"
	$(BIN)/python -m training eval $(ARGS)

bench: setup ## measure what is promised, on this machine: tables, JSON, plots
	$(BIN)/python -m benchmarks $(ARGS)

bench-engine: setup ## the engine on published families, against transformers and the floor
	$(BIN)/python -m benchmarks engine $(ARGS)

bench-gpu: setup ## models of 7 and 8 billion parameters on this machine's GPU
	$(BIN)/python -m benchmarks gpu $(ARGS)

docs: setup ## write docs/configuration.md
	$(BIN)/python docs/configuration.py

dashboard: setup ## write the chart's Grafana dashboard
	$(BIN)/python deploy/helm/dashboard.py

check: setup ## ruff, mypy and the layering test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layering.py

# Needs root where no Docker engine runs: it installs and starts one for the length of the test.
compose-test: setup ## build the images, run the suite in containers, ask, tear down
	$(BIN)/python -m deploy.compose_test

HELM := .cache/helm-venv
$(HELM)/.installed: deploy/helm/tests/requirements.txt
	$(PYTHON) -m venv $(HELM)
	$(HELM)/bin/pip install --quiet -r $<
	@touch $@

helm-test: $(HELM)/.installed ## check the Helm chart without a cluster
	$(HELM)/bin/python deploy/helm/tests/check.py
