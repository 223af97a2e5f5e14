# People and CI press the same buttons. Everything happens in .venv.

PYTHON ?= python3
VENV := .venv
ROUNDS := 11
SEED := 0
KILLS := 200
BIN := $(VENV)/bin
# What `test-sanitize` builds, beside what is installed.
SANITIZED := build/sanitize
ASAN := $(SANITIZED)/address
TSAN := $(SANITIZED)/thread
# Whatever calls C++ with sizes and orders of others. Leaks are the checks' business: Python has its own.
SANITIZED_TESTS := tests/native tests/tier1/test_hostile_worker.py tests/tier1/test_rotary.py \
    tests/tier1/test_sampling_kernels.py \
    $(addprefix tests/tier2/test_,$(addsuffix .py,fetching orders pages_on_drives prompt_kernel \
    sessions sharing views wire_fuzz worker_messages))
INSTALLED := $(VENV)/.installed

# What the site shows, where it lies in the repository: so links are the same in both.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md LICENSE docs bench research examples

.PHONY: install demo test test-all test-chaos test-kills test-sanitize dist check docs format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## answer examples/prompts.jsonl on one Tier-1 process and two workers
	$(BIN)/glinthawk run -m demo -i examples/prompts.jsonl -o demo-answers.jsonl --restart \
	    --tier2 local:2 --worker-kv 256MiB

test: install ## all tests, in three processes
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-all: install ## and every family in every combination of workers, batches and transports
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m ""

test-chaos: install ## jobs in which all the time something dies, in each layout (ROUNDS=11 SEED=0)
	GLINTHAWK_FORK=0 $(BIN)/pytest tests/chaos -m chaos --rounds $(ROUNDS) --first-seed $(SEED) -vv

test-kills: install ## a server with ten batches that is killed again and again (KILLS=200 SEED=0)
	$(BIN)/pytest tests/serve/test_many_kills.py -m kills --kills $(KILLS) --kill-seed $(SEED) -vv -s

test-sanitize: install ## the C++ under ASan, UBSan and TSan: needs g++ and cmake, builds for minutes
	test -d $(SANITIZED)/tools/nanobind || \
	    $(BIN)/pip install --quiet --disable-pip-version-check --target $(SANITIZED)/tools 'nanobind>=2.7'
	PYTHONPATH=$(CURDIR)/$(SANITIZED)/tools cmake -S native -B $(ASAN) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DGLINTHAWK_SANITIZE=address,undefined,float-cast-overflow -DCMAKE_CXX_COMPILER=g++ \
	    -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	cmake --build $(ASAN) --parallel $$(nproc)
	cmake -S native/check -B $(TSAN) -DGLINTHAWK_SANITIZE=thread -DCMAKE_CXX_COMPILER=g++
	cmake --build $(TSAN) --parallel $$(nproc)
	ctest --test-dir $(ASAN)/check --no-tests=error --output-on-failure
	ctest --test-dir $(TSAN) --no-tests=error --output-on-failure
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc GLINTHAWK_FORK=0 GLINTHAWK_NATIVE="$$(ls $(CURDIR)/$(ASAN)/_native*.so)" \
	    $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --capture=sys \
	    -k "not take_no_memory" $(SANITIZED_TESTS)

dist: ## sdist and wheel in dist/, tried in an empty environment
	tools/make_dist.sh $(PYTHON)

docs: install ## README and docs as a site in build/site; a link that leads nowhere is an error
	mkdir -p build/site-source
	for page in $(PAGES); do ln -sfn ../../$$page build/site-source/$$page; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: docs ## what a reviewer should not have to look for
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

format: install ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
