# Every target sets up what it needs first; the second time that takes a moment.
LOCK = --quiet --no-header --no-emit-index-url --python-version 3.11 --generate-hashes --allow-unsafe

.PHONY: demo test test-long test-all test-kernels check fuzz soak bench-tunnel bench-relay bench-siege bench-faults perf lock man setup clean \
	packages wheel coverage

demo: setup
	@.venv/bin/postern demo $(ARGS)

# What needs no machine of its own computes: one process a core, test by test. The others wait more than they compute, so
# there are more of them than cores; of those, tests of a file (or those that tests/scheduling.py puts together) share what they start and take turns.
PYTEST = .venv/bin/python -m pytest
ANYWHERE = tests/unit tests/property tests/simulation tests/fuzz tests/e2e/test_chart_render.py $(wildcard tests/interop/test_recorded_*.py)
COMPUTING = $(PYTEST) -m "not long" -n 2 --dist worksteal $(ANYWHERE)
# Kernels in emulated machines wait for nothing, and would have their processors from the others: they come last, a processor each.
WAITING = $(PYTEST) --dist loadgroup --no-loadscope-reorder $(ANYWHERE:%=--ignore %) --ignore tests/kernels
KERNELS = $(PYTEST) -n 2 tests/kernels

test: setup
ifeq ($(strip $(ARGS)),)
	@failed=0; set -x; $(COMPUTING) || failed=$$?; $(WAITING) -n 3 -m "not long" || failed=$$?; exit $$failed
else
	$(PYTEST) -m "not long" $(ARGS)
endif

test-long: setup
ifeq ($(strip $(ARGS)),)
	@failed=0; set -x; $(WAITING) -n 4 -m long || failed=$$?; $(KERNELS) || failed=$$?; exit $$failed
else
	$(PYTEST) -m long $(ARGS)
endif

# Both, the long ones beside the others.
test-all: setup
	@failed=0; set -x; $(COMPUTING) || failed=$$?; $(WAITING) -n 5 || failed=$$?; $(KERNELS) || failed=$$?; exit $$failed

# The XDP program on Debian's own kernel and on that of its backports, both emulated at once; part of test-long.
test-kernels: setup
	$(KERNELS) $(ARGS)

C_FILES = ebpf/*.c ebpf/include/*.h connectivity/native/*.[ch] tests/fuzz/native_runs.c

check: setup
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports
	@if command -v clang-format-14 >/dev/null; then clang-format-14 --dry-run -Werror $(C_FILES); \
	else echo "check: no clang-format-14, so the layout of C is not looked at" >&2; fi

# Atheris exists for few machines, so it is not among the locked packages.
fuzz: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	.venv/bin/python -m tests.fuzz.relay_parser -max_total_time=$${SECONDS_EACH:-60} $(ARGS)
	.venv/bin/python -m tests.fuzz.native_runs -max_total_time=$${SECONDS_EACH:-60} $(ARGS)
	for target in stun channel_data stream peer_rule server; do \
		.venv/bin/python -m tests.fuzz $$target -max_total_time=$${SECONDS_EACH:-60} $(ARGS) || exit 1; done

# Cases of the simulated world without end, or ARGS="cases seed shrink"; what fails is told as steps that replay.
soak: setup
	@.venv/bin/python -m tests.simulation.soak $(ARGS)

bench-tunnel: setup
	@.venv/bin/postern bench tunnel $(ARGS)

bench-relay: setup
	@.venv/bin/postern bench relay $(ARGS)

bench-siege: setup
	@.venv/bin/postern bench siege $(ARGS)

bench-faults: setup
	@.venv/bin/postern bench faults $(ARGS)

perf: setup
	@.venv/bin/postern bench stack $(ARGS)

# Debian packages of this machine's architecture in build/debian, the wheel in build/wheel.
packages: setup
	@dist/debian/build

wheel: setup
	@.venv/bin/python dist/wheel

# What the tests that need nothing of the machine reach, line by line and branch by branch; told, not enforced.
coverage: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check pytest-cov==6.2.1
	COVERAGE_FILE=build/.coverage $(PYTEST) -m "not long" -n 2 --cov-branch --cov-report term:skip-covered --cov-report xml:build/coverage.xml \
		$(foreach package,connectivity relay gateway client portal ebpf postern,--cov $(package)) $(or $(ARGS),$(ANYWHERE))

lock: setup
	.venv/bin/uv pip compile $(LOCK) --extra dev --output-file requirements.lock pyproject.toml
	.venv/bin/uv pip compile $(LOCK) --extra image --constraint requirements.lock --output-file compose/requirements.lock pyproject.toml

# Manual pages of all commands, as --help has them.
man: setup
	.venv/bin/postern man build/man

setup:
	@lab/setup.sh

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
