# Everything runs in .venv, which the first target makes. `make demo` and `make test` need nothing before.

PYTHON ?= python3
RUNS ?= runs
BIN := .venv/bin
READY := .venv/ready.stamp

export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test quick check format bench gallery clean

# Train the embedded models once and open the dashboard. HEADLESS=1 opens no browser, PORT=n chooses the port.
demo: $(READY)
	$(BIN)/explain demo --runs $(RUNS) $(if $(PORT),--port $(PORT)) $(if $(filter-out 0,$(HEADLESS)),--headless)

# The whole test suite, shared out by file over two processes; WORKERS=0 runs it in one.
WORKERS ?= 2
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The suite without what trains a model or drives a browser.
quick: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# Format, lint, types, import contracts.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every benchmark prints a table and ends in one JSON line. Files named peer_* are their helpers.
bench: $(READY)
	for file in $(filter-out benchmarks/peer_%.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done

# Screenshots of every page, light and dark, into gallery/. Needs Chromium.
gallery: $(READY)
	$(BIN)/python -m tests.gallery --runs $(RUNS) --out gallery

clean:
	rm -rf .venv build gallery .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --dry-run --report - "torch>=2.9,<2.14" 2>/dev/null \
	  | grep -q '"name": "nvidia' \
	  && echo "Note: your package index offers torch with CUDA only, which is several gigabytes. To avoid it," \
	  && echo "stop here, install a CPU build of torch into .venv, and run make again." || true
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@
