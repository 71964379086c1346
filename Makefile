# Every target sets up what it needs first; the second time that takes a moment.
LOCK = --quiet --no-header --no-emit-index-url --python-version 3.11 --generate-hashes --allow-unsafe

.PHONY: demo test test-long test-kernels check fuzz soak bench bench-relay bench-siege bench-faults perf lock setup clean

demo: setup
	@.venv/bin/postern demo $(ARGS)

# Two processes: what needs no machine of its own test by test, the others file by file, as they share what they start.
PYTEST = .venv/bin/python -m pytest
ANYWHERE = tests/unit tests/property tests/simulation tests/fuzz tests/e2e/test_chart_render.py $(wildcard tests/interop/test_recorded_*.py)

test: setup
ifeq ($(strip $(ARGS)),)
	@failed=0; set -x; \
	$(PYTEST) -m "not long" -n 2 --dist worksteal $(ANYWHERE) || failed=$$?; \
	$(PYTEST) -m "not long" -n 2 --dist loadfile $(ANYWHERE:%=--ignore %) || failed=$$?; exit $$failed
else
	$(PYTEST) -m "not long" $(ARGS)
endif

test-long: setup
ifeq ($(strip $(ARGS)),)
	@failed=0; set -x; \
	$(PYTEST) -m long -n 2 tests/kernels || failed=$$?; \
	$(PYTEST) -m long -n 2 --dist loadgroup --ignore tests/kernels || failed=$$?; exit $$failed
else
	$(PYTEST) -m long $(ARGS)
endif

# The XDP program on Debian's own kernel and on that of its backports, both emulated at once; part of test-long.
test-kernels: setup
	$(PYTEST) -n 2 tests/kernels $(ARGS)

check: setup
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

# Atheris exists for few machines, so it is not among the locked packages.
fuzz: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	.venv/bin/python -m tests.fuzz.relay_parser -max_total_time=$${SECONDS_EACH:-60} $(ARGS)
	for target in stun channel_data stream peer_rule server; do \
		.venv/bin/python -m tests.fuzz $$target -max_total_time=$${SECONDS_EACH:-60} $(ARGS) || exit 1; done

# Cases of the simulated world without end, or ARGS="cases seed shrink"; what fails is told as steps that replay.
soak: setup
	@.venv/bin/python -m tests.simulation.soak $(ARGS)

bench: setup
	@.venv/bin/postern bench compare $(ARGS)

bench-relay: setup
	@.venv/bin/postern bench relay $(ARGS)

bench-siege: setup
	@.venv/bin/postern bench siege $(ARGS)

bench-faults: setup
	@.venv/bin/postern bench faults $(ARGS)

perf: setup
	@.venv/bin/postern bench stack $(ARGS)

lock: setup
	.venv/bin/uv pip compile $(LOCK) --extra dev --output-file requirements.lock pyproject.toml
	.venv/bin/uv pip compile $(LOCK) --extra image --constraint requirements.lock --output-file compose/requirements.lock pyproject.toml

setup:
	@lab/setup.sh

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
