# Daily acts. Each makes what it needs: the environment in .venv, the packages, the clips.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lint format chaos fuzz bench bench-full bench-gpu simulate-alerts docs lock sbom licences clean

help: ## list the daily acts
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/base: pyproject.toml scripts/venv.sh
	@scripts/venv.sh "$(PYTHON)" demo
	@touch $@

.venv/dev: .venv/base
	@scripts/venv.sh "$(PYTHON)" demo,test
	@touch $@

demo: .venv/base ## two streams through a broker and a worker: live table, alerts, reports in demo-output/
	@$(BIN)/difffake demo --out demo-output

test: .venv/dev ## run every test that needs no GPU
	@$(BIN)/python -m pytest -m "not gpu"

# A bare GPU host has no network to fill .venv from: its own Python serves, if it has torch, onnx, onnxruntime,
# cuda-bindings and pytest.
GPU_PYTHON ?= $(shell test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON))

test-gpu: ## run the tests that need an NVIDIA GPU
	@$(GPU_PYTHON) -m pytest --noconftest -m gpu tests/gpu

lint: .venv/dev ## formatting, lint rules, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: .venv/dev ## rewrite the code in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

chaos: .venv/dev ## kill workers at random on a real Apache Kafka, and count frames (Java 17, Maven)
	@$(BIN)/python scripts/fetch_clips.py .cache/clips
	@$(BIN)/python tests/chaos.py .cache/clips/WolfgangLanger_Pexels.mp4 .cache/clips/single_face.mp4 .cache/clips/face_noface.mov --kills 50

fuzz: .venv/dev ## 10,000 damaged records through a whole worker
	@$(BIN)/python scripts/fetch_clips.py .cache/clips
	@$(BIN)/python tests/fuzz_worker.py 10000 --clip .cache/clips/single_face.mp4

bench: .venv/dev ## measure; results in benchmarks/results/
	@scripts/bench.sh $(BIN)

bench-full: .venv/dev ## the same, and the pipeline at all sizes, loads and numbers of streams (hours; a quiet machine)
	@scripts/bench.sh $(BIN) --full

bench-gpu: ## measure engines on an NVIDIA GPU; results in benchmarks/results/gpu.json
	@$(GPU_PYTHON) benchmarks/gpu.py --out benchmarks/results/gpu.json

# Real footage is not in the repository: name folders of it in CLIPS, recorded swaps beside their originals in SWAPS, clips
# of one person in SAME (a,b c,d), clips that show several people in SKIP. What was looked at is kept in .cache/evaluation.
simulate-alerts: .venv/dev ## false alerts against their budget, and time to detect: CLIPS=folder [SWAPS=folder] [SAME=a,b] [SKIP=a] [OUT=path]
	@test -n "$(CLIPS)" || { echo "name folders of real videos: make simulate-alerts CLIPS=FOLDER" >&2; exit 2; }
	@nice -n 10 $(BIN)/python benchmarks/simulate_alerts.py $(CLIPS) $(if $(SWAPS),--side-by-side $(SWAPS)) \
	  $(SAME:%=--same %) $(SKIP:%=--skip %) --out $(or $(OUT),benchmarks/results/simulate_alerts)

docs: .venv/dev ## rewrite the pages and pictures that are made from code
	@scripts/docs.sh $(BIN)

lock: .venv/dev ## pin what images are made of (deploy/requirements/*.lock); UPGRADE=--upgrade takes newer versions
	@scripts/lock.sh $(BIN) $(UPGRADE)

sbom: .venv/dev ## bill of materials of the CPU image: sbom.cdx.json; LOCK=gpu for another one
	@scripts/sbom.sh $(BIN) deploy/requirements/$(or $(LOCK),cpu).lock sbom.cdx.json

licences: .venv/dev ## licences of what a worker is made of; fails on those that may not be passed on
	@$(BIN)/python scripts/licences.py openvino otel wall

clean: ## remove what the other acts made
	rm -rf .venv .cache demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
