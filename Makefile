# Everything a newcomer types. Only python3 (3.11 or newer) and make are assumed; the rest lands in .venv and .build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MEMBERS := $(wildcard libs/*) $(wildcard services/*)
MEMBER_PROJECTS := $(wildcard libs/*/pyproject.toml) $(wildcard services/*/pyproject.toml)
MEMBER_NAMES := $(foreach member,$(MEMBERS),millrace-$(notdir $(member)))
PACKAGES := $(filter-out libs/contracts/src,$(wildcard libs/*/src services/*/src))
GOOGLE_PROTOS := google/api/annotations.proto google/api/http.proto google/rpc/status.proto google/type/dayofweek.proto
CONTRACTS := libs/contracts/src
# Many tests wait more than they work: four processes keep two cores busy.
PYTEST_ARGS ?= -n 4 --dist worksteal

export UV_PROJECT_ENVIRONMENT := $(VENV)

.DEFAULT_GOAL := help
.PHONY: help setup run test check proto bench format lock clean

help: ## Say what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make the environment (.venv) that all other targets use

$(VENV)/.installed: requirements.lock requirements-uv.lock $(MEMBER_PROJECTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock requirements-uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@

run: setup ## Start the whole system and put a real job through it (ONCE=1: stop afterwards)
	@$(BIN)/python examples/airports.py $(if $(ONCE),--once)

test: setup ## Run every test
	@$(BIN)/pytest $(PYTEST_ARGS)

check: setup .build/googleapis ## Format, lint, types, contracts, stale stubs, import rules
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/buf format --diff --exit-code proto
	@$(BIN)/buf lint
	@.ci/buf-breaking $(BIN)/buf
	@$(MAKE) --no-print-directory .stale-stubs
	@$(BIN)/lint-imports --no-cache > .build/import-rules.txt || { cat .build/import-rules.txt; exit 1; }
	@$(BIN)/mypy
	@echo "check: all good"

proto: setup .build/googleapis ## Generate the stubs in libs/contracts from proto/
	@rm -rf $(CONTRACTS)/millrace
	@mkdir -p $(CONTRACTS)/millrace && touch $(CONTRACTS)/millrace/py.typed
	@$(call generate,$(CONTRACTS))

.PHONY: .stale-stubs
.stale-stubs:
	@rm -rf .build/stubs && mkdir -p .build/stubs/millrace && touch .build/stubs/millrace/py.typed
	@$(call generate,.build/stubs)
	@diff -r -q --exclude=__pycache__ .build/stubs $(CONTRACTS) || { echo "stale stubs, run: make proto"; exit 1; }

define generate
$(BIN)/python -m grpc_tools.protoc -I proto -I .build/googleapis --python_out=$(1) --grpc_python_out=$(1) \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	$(sort $(shell find proto -name '*.proto'))
endef

.build/googleapis: $(VENV)/.installed
	@rm -rf $@ && mkdir -p $@
	@packages=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	for file in $(GOOGLE_PROTOS); do mkdir -p $@/$$(dirname $$file) && cp "$$packages/$$file" $@/$$file; done

bench: setup ## Measure speed beside bare SQL (BENCH_ARGS="--help": how)
	@PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

format: setup ## Format code and contracts, and mend what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/buf format --write proto

lock: setup ## Resolve the dependencies anew into requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-header --upgrade $(addprefix --no-emit-package ,$(MEMBER_NAMES)) \
		--output-file requirements.lock --group dev $(MEMBER_PROJECTS)

clean: ## Remove everything that was made here: environment, caches, local data
	@rm -rf $(VENV) .build .millrace .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
