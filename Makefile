# People and CI press the same buttons. Everything happens in .venv.

PYTHON ?= python3
VENV := .venv
ROUNDS := 5
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-all test-chaos check format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## answer examples/prompts.jsonl on one Tier-1 process and two workers
	$(BIN)/glinthawk run -m demo -i examples/prompts.jsonl -o demo-answers.jsonl --restart \
	    --tier2 local:2 --worker-kv 256MiB

test: install ## all tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: install ## and every family in every combination of workers, batches and transports
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m ""

test-chaos: install ## a job in which all the time something dies (ROUNDS=5)
	$(BIN)/pytest tests/chaos -m chaos --rounds $(ROUNDS)

check: install ## what a reviewer should not have to look for
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

format: install ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
