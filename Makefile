# Two commands set everything up on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: quickstart test test-all lint format bench clean

quickstart: $(INSTALLED) data/quickstart/val-labelled/dataset.json
	@echo "1 of 3: MAE pre-pretraining"
	$(BIN)/composer -n 1 train.py yamls/quickstart/mae.yaml
	$(BIN)/maws-composer probe runs/quickstart/mae --train data/quickstart/train --test data/quickstart/val
	@echo "2 of 3: WSP on hashtags, from the MAE encoder and, out of sight, from scratch (runs/quickstart/scratch.log)"
	mkdir -p runs/quickstart
	$(WSP) save_folder=runs/quickstart/scratch run_name=scratch loggers={} > runs/quickstart/scratch.log 2>&1 & scratch=$$!; \
	$(WSP) save_folder=runs/quickstart/mae-wsp run_name=mae-wsp initialize_from=runs/quickstart/mae; from_mae=$$?; \
	wait $$scratch || { tail runs/quickstart/scratch.log; exit 1; }; exit $$from_mae
	@echo "3 of 3: their encoders, frozen"
	$(EVALUATE) weights=runs/quickstart/mae feature=mean_patch_token
	$(EVALUATE) weights=runs/quickstart/scratch
	$(EVALUATE) weights=runs/quickstart/mae-wsp
	$(BIN)/maws-composer report runs/quickstart/scratch runs/quickstart/mae runs/quickstart/mae-wsp \
		--out runs/quickstart/report.html

WSP := OMP_NUM_THREADS=1 $(BIN)/composer -n 1 train.py yamls/quickstart/wsp.yaml
EVALUATE := $(BIN)/python evaluate.py yamls/eval/quickstart.yaml

data/quickstart/train/dataset.json: | $(INSTALLED)
	$(BIN)/python -m streaming_conversion openmoji data/quickstart

data/quickstart/train-labelled/dataset.json: data/quickstart/train/dataset.json
	$(BIN)/python -m streaming_conversion label data/quickstart/train data/quickstart/train-labelled \
		--canonical none --min-count 8 --max-classes 128

data/quickstart/val-labelled/dataset.json: data/quickstart/train-labelled/dataset.json
	$(BIN)/python -m streaming_conversion label data/quickstart/val data/quickstart/val-labelled \
		--classes data/quickstart/train-labelled/classes.json

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
