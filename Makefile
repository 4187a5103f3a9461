PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin

.PHONY: demo test check bench
demo: .venv/ready
	mkdir -p out
	$(BIN)/optc compile examples/adamw.opt -o out/adamw.py
	$(BIN)/optc train examples/adamw.opt --plot out/adamw.png
test: .venv/ready
	$(BIN)/pytest
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
bench: .venv/ready
	$(BIN)/optc bench examples/adamw.opt

# The link lets mypy and pyright follow an editable package whose root is the repository.
.venv/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	mkdir -p .venv/src && ln -sfn ../.. .venv/src/optc
	touch $@
