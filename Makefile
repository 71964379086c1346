# Every target sets up what it needs first; the second time that takes a moment.
LOCK = --quiet --no-header --no-emit-index-url --python-version 3.11 --generate-hashes --allow-unsafe

.PHONY: demo test test-long check bench perf lock setup clean

demo: setup
	@.venv/bin/postern demo $(ARGS)

test: setup
	.venv/bin/python -m pytest -m "not long" $(ARGS)

test-long: setup
	.venv/bin/python -m pytest -m long $(ARGS)

check: setup
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

bench: setup
	@.venv/bin/postern bench compare $(ARGS)

perf: setup
	@.venv/bin/postern bench stack $(ARGS)

lock: setup
	.venv/bin/uv pip compile $(LOCK) --extra dev --output-file requirements.lock pyproject.toml
	.venv/bin/uv pip compile $(LOCK) --extra image --constraint requirements.lock --output-file compose/requirements.lock pyproject.toml

setup:
	@lab/setup.sh

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
