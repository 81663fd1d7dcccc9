# Two commands set everything up on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: quickstart test test-all faults lint format bench docs clean

quickstart: $(INSTALLED) data/quickstart/val-labelled/dataset.json data/quickstart/pairs/kinds/dataset.json
	@echo "1 of 4: MAE pre-pretraining"
	$(TRAIN) yamls/quickstart/mae.yaml
	test $(RUNS)/mae/figures.json -nt $(RUNS)/mae/checkpoints || $(BIN)/maws-composer probe $(RUNS)/mae --train data/quickstart/train --test data/quickstart/val
	@echo "2 of 4: WSP on hashtags, from the MAE encoder and, out of sight, from scratch ($(RUNS)/scratch.log)"
	$(WSP) save_folder=$(RUNS)/scratch run_name=scratch loggers={} > $(RUNS)/scratch.log 2>&1 & scratch=$$!; \
	$(WSP) save_folder=$(RUNS)/mae-wsp run_name=mae-wsp initialize_from=$(RUNS)/mae; from_mae=$$?; \
	wait $$scratch || { tail $(RUNS)/scratch.log; exit 1; }; exit $$from_mae
	@echo "3 of 4: LiT, a text tower for the names of pictures in six languages"
	test -e $(RUNS)/text-tower/config.json || $(BIN)/maws-composer text-tower data/quickstart/pairs/train \
		$(RUNS)/text-tower --vocabulary 4000 --width 128 --depth 3
	$(TRAIN) yamls/quickstart/lit.yaml initialize_from=$(RUNS)/mae-wsp
	@echo "4 of 4: evaluations of the frozen encoders, and zero-shot in six languages"
	$(call evaluate,quickstart,mae) feature=mean_patch_token
	$(call evaluate,quickstart,scratch) feature=class_token
	$(call evaluate,quickstart,mae-wsp) feature=class_token
	$(call evaluate,quickstart_names,lit)
	$(call evaluate,quickstart_kinds,lit)
	$(BIN)/maws-composer report $(RUNS)/scratch $(RUNS)/mae $(RUNS)/mae-wsp $(RUNS)/lit --out $(RUNS)/report.html

RUNS := runs/quickstart
TRAIN := $(BIN)/composer -n 1 train.py
WSP := OMP_NUM_THREADS=1 $(TRAIN) yamls/quickstart/wsp.yaml
# what was evaluated since its last checkpoint is not evaluated again
evaluate = test evaluations/$(1)-$(2)/results.json -nt $(RUNS)/$(2)/checkpoints || \
	$(BIN)/python evaluate.py yamls/eval/$(1).yaml weights=$(RUNS)/$(2)

data/quickstart/val/dataset.json: | $(INSTALLED)
	$(BIN)/python -m streaming_conversion openmoji data/quickstart

data/quickstart/train-labelled/dataset.json: data/quickstart/val/dataset.json
	$(BIN)/python -m streaming_conversion label data/quickstart/train data/quickstart/train-labelled \
		--canonical none --min-count 8 --max-classes 128

data/quickstart/val-labelled/dataset.json: data/quickstart/train-labelled/dataset.json
	$(BIN)/python -m streaming_conversion label data/quickstart/val data/quickstart/val-labelled \
		--classes data/quickstart/train-labelled/classes.json

data/quickstart/pairs/val/dataset.json: | $(INSTALLED)
	$(BIN)/python -m streaming_conversion openmoji data/quickstart/pairs --languages en,fr,de,ja,ru,ar

data/quickstart/pairs/kinds/dataset.json: data/quickstart/pairs/val/dataset.json
	$(BIN)/python -m streaming_conversion label data/quickstart/pairs/val data/quickstart/pairs/kinds \
		--canonical table --table yamls/eval/openmoji/kinds.tsv

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults --fault-table benchmarks/faults.md

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

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict -f docs/mkdocs.yml

clean:
	rm -rf .venv runs evaluations

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about 6 GB, some minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[dev]"
	rm -f .venv/installed-*
	touch $@
