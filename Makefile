# make serve | make test | make help. Everything is installed into .venv; nothing else of the machine is touched.

PYTHON ?= python3
EXTRA ?= cpu
PORT ?= 8000
SERVER ?= http://127.0.0.1:$(PORT)
ARGS ?=
JOBS ?= auto
SOAK_RESULTS ?= bench/results/soak.jsonl
BIN := .venv/bin
INSTALL = $(PYTHON) tools/install.py
SYSTEM := promtool:prometheus bwrap:bubblewrap npm:npm nginx:nginx curl:curl javac:default-jdk-headless pg_ctlcluster:postgresql ip:iproute2 chromium:chromium

# HOST and MODEL are names that shells and other tools give to things of their own: only `make HOST=...` counts.
ifneq ($(origin HOST),command line)
HOST :=
endif
ifneq ($(origin MODEL),command line)
MODEL :=
endif

# Where it is set, as in many images, each start of an engine would compile torch and vLLM anew: half of what a start takes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve console test conformance soak check style lint types docs format bench demo dashboards install lock dist clean
.DEFAULT_GOAL := help

help: ## this list
	@echo "Ponder: an OpenAI-compatible server whose thinking_budget binds"
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

serve: ## serve MODEL= (default: demo, the bundled reasoner; smollm2 talks) on HOST= PORT=; more flags in ARGS=; EXTRA=gpu on a GPU
	@$(INSTALL) $(EXTRA)
	@$(BIN)/ponder serve --with-parent $(MODEL) $(if $(HOST),--host $(HOST)) --port $(PORT) $(ARGS)

console: ## pages for a server, http://127.0.0.1:8080: SERVER= (default: the one of `make serve`); more flags in ARGS=
	@$(INSTALL) $(EXTRA) console
	@$(BIN)/ponder console --server $(SERVER) $(ARGS)

test: ## run every test, JOBS= at a time (auto: as the cores and the memory allow); some of them in ARGS="tests/compute -k budget"
	@$(INSTALL) $(EXTRA) dev
	@missing=; for pair in $(SYSTEM); do command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	  if [ -n "$$missing" ]; then echo "ponder: some tests want Debian packages that are not here: sudo apt-get install$$missing"; fi
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

conformance: ## suites of other authors against a server over a test engine: openai-python's, TrustedRouter's, schemathesis
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/python -m pytest tests/conformance $(ARGS)

soak: ## run the long tests that `make test` leaves out; results go to SOAK_RESULTS=, and a run that was cut goes on
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/python -m pytest -m soak --soak-results $(SOAK_RESULTS) $(ARGS)

check: style docs ## ruff, its formatter, pyright and codespell find nothing, and the documents are true

style: lint types ## what `make check` finds without running a test
	@$(BIN)/codespell

types: ## pyright finds nothing
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/pyright --pythonpath $(BIN)/python

docs: ## the documents are spelled right, their links lead somewhere and their code runs
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/codespell
	@$(BIN)/python -m pytest tests/test_docs.py

lint: ## ruff and its formatter find nothing
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: ## let ruff mend what it can
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: ## Ponder beside vLLM's own server, then its front end alone (about 12 minutes)
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/python bench/door.py $(ARGS)
	@$(BIN)/python bench/overhead.py $(ARGS)

demo: ## ask the demo reasoner 60 questions at five budgets and draw what a budget buys (two and a half minutes on two cores)
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/python -m bench.demo $(ARGS)

dashboards: ## write deploy/grafana/dashboards anew after a change to deploy/grafana
	@$(INSTALL) $(EXTRA) dev
	@$(BIN)/python -m deploy.grafana

install: ## install alone, what serve and test need
	@$(INSTALL) $(EXTRA) dev

lock: ## resolve tools/constraints-cpu.txt anew after a change to pyproject.toml; everything to its newest with ARGS=--upgrade
	@$(PYTHON) tools/lock.py $(ARGS)

dist: ## build wheel and source archive into dist/, and install the wheel once to prove it
	@$(PYTHON) tools/dist.py

clean: ## remove .venv and all that was made
	rm -rf .venv build dist .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
