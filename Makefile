PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
RULES := adamw sgd cautious_adamw muon_adamw sam_adamw psgd

.PHONY: demo test check bench lint format types layers
demo: .venv/ready
	mkdir -p out
	$(BIN)/optc compile examples/adamw.opt -o out/adamw.py
	$(BIN)/optc train examples/adamw.opt --plot out/adamw.png
test: .venv/ready
	$(BIN)/pytest
check: lint format types layers
lint: .venv/ready
	$(BIN)/ruff check .
format: .venv/ready
	$(BIN)/ruff format --check .
types: .venv/ready
	$(BIN)/mypy
layers: .venv/ready
	$(BIN)/lint-imports
bench: .venv/ready
	mkdir -p docs
	$(BIN)/optc bench $(RULES:%=examples/%.opt) --compile --out docs/benchmark.md

# The link lets mypy and pyright follow an editable package whose root is the repository.
.venv/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	mkdir -p .venv/src && ln -sfn ../.. .venv/src/optc
	touch $@
