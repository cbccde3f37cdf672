# Two commands matter to a newcomer: `make demo` and `make test`. Both set up what they need first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
EXTRAS ?= studio,landmarks,export,scale,bench,fid,tensorboard,dev
STAMP  := $(VENV)/.installed
PLAIN  := $(VENV)/.installed-plain
SOURCE := pyproject.toml constraints.txt setup.py $(wildcard src/meshgan/nn/native/* src/meshgan/native/*)
# Files are compiled when they are first imported: most of them never are.
PIP     = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: setup demo test test-full fuzz lint sanitize mutants bench clean

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else 'meshgan needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name another one: make $(MAKECMDGOALS) PYTHON=python3.12' % v)"
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(SOURCE) | $(BIN)/python
	@echo "Installing meshgan with all extras and the tools of its tests into $(VENV): some minutes, 3 GB on disk."
	$(PIP) ".[$(EXTRAS)]"
	@touch $@ $(PLAIN)

$(PLAIN): $(SOURCE) | $(BIN)/python
	@echo "Installing meshgan into $(VENV): a few minutes, 1.5 GB on disk, most of it PyTorch."
	@echo "(On Linux, PyPI's PyTorch brings CUDA, 3 GB more. Without a card: make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)"
	$(PIP) .
	@touch $@

demo: $(PLAIN)
	@test -d demo/corpus || echo "Making 3,000 people: half a minute, 180 MB."
	@test -d demo/corpus || $(BIN)/meshgan data anny-identities demo/corpus --count 3000
	@echo "Training a small MeshGAN: some minutes; Ctrl-C stops it, make demo goes on."
	@$(BIN)/meshgan train demo --data demo/corpus --out demo/run --resume
	@$(BIN)/meshgan sample demo/run --out demo/faces --count 16 --sheet demo/faces.png
	@$(BIN)/meshgan sample identity --out demo/shipped --count 16 --sheet demo/shipped.png
	@echo "Look at demo/faces.png; each face lies in demo/faces as GLB. Beside it, demo/shipped.png: faces of the model"
	@echo "'identity', which comes with meshgan and learned for longer, details as well. More faces of yours: type"
	@echo "    $(BIN)/meshgan sample demo/run --out more --count 16 --seed 1 --sheet more.png"

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"

test-full: lint
	$(BIN)/python -m pytest -m "not gpu"

fuzz: setup
	$(BIN)/python tests/fuzz.py --count 20000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The kernel, watched by GCC's address and thread sanitizers while fields of random shapes are pushed through it from
# several threads. TSan cannot see the locks of libraries that it was not compiled into, so it is told to watch the kernel.
FUZZ ?= 300
sanitize: setup
	@set -e; for kind in address thread; do \
	  echo "== $$kind sanitizer, $(FUZZ) fields"; \
	  MESHGAN_SANITIZE=$$kind $(BIN)/python setup.py -q build_ext --build-lib build/$$kind --build-temp build/$$kind/temp; \
	  runtime=$$(gcc -print-file-name=lib$$(test $$kind = address && echo a || echo t)san.so); \
	  for library in $$(ls build/$$kind/meshgan/nn/_chebyshev_*.so | $(if $(shell grep -m1 -o avx512f /proc/cpuinfo),cat,grep -v avx512)); do \
	    echo "$$library"; \
	    LD_PRELOAD="$$runtime $$(gcc -print-file-name=libstdc++.so)" MESHGAN_KERNEL=$$PWD/$$library OMP_NUM_THREADS=1 \
	    ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0" \
	    $(BIN)/python tests/nn/fuzz_shapes.py $(FUZZ); \
	  done; \
	done

# How many small faults in the source the tests notice, of a seeded sample: all of them would take days.
SAMPLE ?= 100
SEED   ?= 0
mutants: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt cosmic-ray
	$(BIN)/python tools/mutants.py --sample $(SAMPLE) --seed $(SEED)

bench: setup
	$(BIN)/meshgan bench hierarchy
	$(BIN)/meshgan bench data
	$(BIN)/meshgan bench raster
	$(BIN)/meshgan bench train-step

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
