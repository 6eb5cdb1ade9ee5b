# Two commands: `make reproduce` and `make test`. Both set up .venv with the pinned dependencies first.
SCALE ?= desk
CORES ?= all
SEEDS ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := --config 'scale=$(SCALE)' $(if $(SEEDS),'seeds=$(SEEDS)')
RUNS := '$(SCALE)' $(if $(SEEDS),--seeds '$(SEEDS)')
LAST_RUN := $(addprefix --configfile ,$(wildcard .snakemake/compressbench/last_run/$(SCALE).json))

.PHONY: reproduce test test-units test-dag check report ui plan slurm-smoke benchmark bench-kernels sanitize clean setup rehearsal gpu

reproduce: setup  ## run everything at desk scale, compare with the committed numbers (SCALE=smoke|paper, SEEDS=[0,1,2])
	$(BIN)/compressbench unlock
	@$(BIN)/compressbench snakemake all first --cores $(CORES) --keep-going --rerun-incomplete $(CONFIG)
	@$(MAKE) --no-print-directory --silent report
	@$(BIN)/compressbench verdict $(RUNS)
	@echo "Look at all results: $$($(BIN)/compressbench report-folder $(RUNS))/index.html"

report: setup  ## one self-contained page from the results of the last run, beside its tables
	folder=$$($(BIN)/compressbench report-folder $(RUNS) --last) && \
	  $(BIN)/compressbench snakemake --report "$$folder/report.html" $(LAST_RUN) $(CONFIG)

test: check test-units test-dag  ## static checks, unit tests, and the smoke DAG; make -j2 --output-sync test: two at a time

test-units: setup
	$(BIN)/python -m pytest -m 'not pipeline'

test-dag: setup
	$(BIN)/python -m pytest -m pipeline

check: setup  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

plan: setup  ## what would run
	$(BIN)/snakemake -n --quiet rules $(CONFIG)

slurm-smoke: setup  ## the smoke scale on a Slurm of one node: Debian's packages, as root (docs/clusters.md)
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/slurm/smoke.sh

ui: setup  ## look at the results in MLflow (SCALE=smoke|paper)
	$(BIN)/compressbench ui --scale '$(SCALE)'

benchmark: setup  ## the training loop's overhead over a bare PyTorch loop, and the image loader's speed beside Pillow's
	$(BIN)/python -m tests.benchmarks.loop_overhead
	$(BIN)/python -m tests.benchmarks.loader_throughput

bench-kernels: setup  ## the CPU kernels against the best dense form of every layer; writes into reports/
	$(BIN)/compressbench bench-kernels

sanitize: setup  ## the C++ kernels under the address and undefined-behaviour sanitizers
	$(BIN)/python setup.py --quiet sanitize

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml setup.py $(wildcard compressbench/kernels/native/*)
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: Python 3.11 or newer is needed; say which one with: make PYTHON=/path/to/python3.11 ...' >&2; exit 2; }
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@ls compressbench/kernels/_native*.so > /dev/null 2>&1 || \
	  echo 'note: without a C++ compiler the CPU kernels are slow PyTorch code; install g++, then: make clean setup'
	touch $@

rehearsal: setup  ## proof that paper scale runs: every ImageNet pair for a step or two, on photographs in ImageNet's layout
	test -d data/external/rehearsal || $(BIN)/compressbench rehearsal-data data/external/rehearsal --classes 1000 --train 3
	$(BIN)/snakemake --cores $(CORES) --keep-going --rerun-incomplete --config scale=rehearsal

GPU_SECONDS ?= 240
gpu: setup  ## on a GPU, in ten minutes: ResNet-50's images per second, every stage of every method, ResNet-20 as far as it comes
	$(BIN)/python -m tests.benchmarks.gpu --seconds $(GPU_SECONDS)
	-timeout --signal INT $(GPU_SECONDS) $(BIN)/snakemake --cores $(CORES) --keep-going --rerun-incomplete --config scale=resnet20
	$(BIN)/compressbench report resnet20 reports/gpu

clean:  ## remove the environment, not the results
	rm -rf $(VENV)
