#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, the rate of a step, and the trainings of the tables, all at
# once: a step is a thousand small kernels, which leave most of a card idle. Made for a lease of ten minutes on 16 cores.
#   benchmarks/gpu.sh [FOLDER]     # FOLDER receives sets and runs; default: runs/gpu
# PYTHON names the interpreter (default .venv/bin/python, after `make setup` with a CUDA build of PyTorch), FACES how many
# faces each model sees, RUNS which trainings: set-recipe pairs.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
out=${1:-runs/gpu}
faces=${FACES:-144000}
runs=${RUNS:-"identities-meshgan expressions-meshgan identities-pointwise expressions-pointwise \
identities-coma-tuned expressions-coma-tuned identities-coma expressions-coma"}
meshgan() { "$python" -m meshgan.cli.main "$@"; }
mkdir -p "$out"

"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "PyTorch finds no GPU here.")'
(test -d "$out/identities" || meshgan data anny-identities "$out/identities" --count 12000) &
(test -d "$out/expressions" || { meshgan data anny-expressions "$out/faces" && meshgan data decouple "$out/faces" "$out/expressions"; }) &
"$python" -m pytest -m gpu
test -d "$out/small" || meshgan data anny-identities "$out/small" --count 300
"$python" benchmarks/gpu_step.py "$out/small" | tee "$out/step.txt"
wait

# With NVIDIA's multi-process service the kernels of several processes run side by side; without it they take turns.
export CUDA_MPS_PIPE_DIRECTORY=$PWD/$out/mps CUDA_MPS_LOG_DIRECTORY=$PWD/$out/mps
mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"
nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
for run in $runs; do
  meshgan train "${run#*-}" --data "$out/${run%%-*}" --out "$out/$run" --device cuda --resume \
    --set "schedule.faces=$faces" > "$out/$run.log" 2>&1 &
done
wait
tail -n 1 "$out"/*-*.log
echo quit | nvidia-cuda-mps-control || true
