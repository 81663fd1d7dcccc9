# Two commands set everything up on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: quickstart test test-all lint format bench clean

quickstart: $(INSTALLED) data/quickstart/val/dataset.json
	$(BIN)/composer -n 1 train.py yamls/quickstart/mae.yaml
	$(BIN)/maws-composer probe runs/quickstart/mae --train data/quickstart/train --test data/quickstart/val
	$(BIN)/maws-composer report runs/quickstart/mae

data/quickstart/val/dataset.json: $(INSTALLED)
	$(BIN)/python -m streaming_conversion openmoji data/quickstart

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv runs

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about 6 GB, some minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[dev]"
	rm -f .venv/installed-*
	touch $@
