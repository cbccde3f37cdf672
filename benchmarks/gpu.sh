#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, the step's rate at several batches, and the paper's
# schedule, timed. Run it from the root of the repository after `make setup` with a CUDA build of PyTorch:
#   benchmarks/gpu.sh [FOLDER]          # FOLDER receives the corpus and the run; default: runs/gpu
set -euo pipefail
bin=${VENV:-.venv}/bin
out=${1:-runs/gpu}
mkdir -p "$out"

"$bin"/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "PyTorch finds no GPU here.")'
"$bin"/python -m pytest -m gpu

test -d "$out/corpus" || "$bin"/meshgan data anny-identities "$out/corpus" --count 12000
"$bin"/python benchmarks/gpu_step.py "$out/corpus" | tee "$out/step.txt"

# Target on one H100: the paper's 300 epochs (3.2 million faces) in under 10 minutes.
time "$bin"/meshgan train paper --data "$out/corpus" --out "$out/paper" --device cuda
"$bin"/meshgan sample "$out/paper" --out "$out/faces" --count 16 --sheet "$out/faces.png"
