# Thin: each target says what it runs. `scripts/setup` prepares .venv and is quick when nothing has changed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs clean

PYTHON_IN_VENV := .venv/bin/python
ARGS ?=

help:    ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

setup:   ## .venv with everything, and the wheel in it
	@scripts/setup test

demo:    ## the demonstration: MNIST trained on encrypted data (ARGS="--quick")
	@scripts/setup demo
	@.venv/bin/securetf demo $(ARGS)

test:    ## the whole Python suite (ARGS="-k volume"); the Rust suite is `cargo test --workspace`
	@scripts/setup test
	@$(PYTHON_IN_VENV) -m pytest -n 2 $(ARGS)

lint:    ## ruff, mypy, import-linter, rustfmt, clippy
	@scripts/setup test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings

bench:   ## every benchmark, quick (see benchmarks/README.md for full runs)
	@scripts/setup test
	@set -e; for script in benchmarks/[a-z]*.py; do $(PYTHON_IN_VENV) $$script --quick; done

docs:    ## regenerate the generated reference pages
	@scripts/setup test
	@$(PYTHON_IN_VENV) scripts/reference.py

clean:   ## remove what the targets above made
	rm -rf .venv build target .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache benchmarks/results
