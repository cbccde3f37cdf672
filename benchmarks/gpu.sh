#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, the rate of a step, and trainings, all at once: a step is
# a thousand small kernels, which leave most of a card idle. Made for a lease of ten minutes on 16 cores.
#   benchmarks/gpu.sh [FOLDER]     # FOLDER receives sets and runs; default: runs/gpu
# PYTHON names the interpreter (default .venv/bin/python, after `make setup` with a CUDA build of PyTorch).
# RUNS says which trainings, each as SET:RECIPE:SEED:DEVICE:CHANGE, of which all but the first two may be left out; a run
# lies in FOLDER/SET-RECIPE-SEED, and goes on where it stands if it is there. Those that are not through LIMIT seconds
# after the start keep a checkpoint and stop; ONLY=training leaves out tests and rates.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
out=${1:-runs/gpu}
limit=${LIMIT:-86400}
failed=0  # tests and rates: what trains goes on all the same
runs=${RUNS:-"identities:meshgan expressions:meshgan identities:pointwise expressions:pointwise \
identities:convolutions expressions:convolutions identities:coma-tuned expressions:coma-tuned \
identities:coma expressions:coma"}
meshgan() { "$python" -m meshgan.cli.main "$@"; }
mkdir -p "$out"

"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "PyTorch finds no GPU here.")'
(test -d "$out/identities" || meshgan data anny-identities "$out/identities" --count 12000) &
identities=$!
(test -d "$out/expressions" || { meshgan data anny-expressions "$out/faces" && meshgan data decouple "$out/faces" "$out/expressions"; }) &
expressions=$!
if [ "${ONLY:-}" != training ]; then
  "$python" -m pytest -m gpu $(grep -rl mark.gpu tests) || failed=1
  test -d "$out/small" || meshgan data anny-identities "$out/small" --count 300
  "$python" benchmarks/gpu_step.py "$out/small" | tee "$out/step.txt" || failed=1
fi

# With NVIDIA's multi-process service the kernels of several processes run side by side; without it they take turns.
CUDA_MPS_PIPE_DIRECTORY=$(realpath "$out")/mps
export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"
nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
for run in $runs; do
  IFS=: read -r set recipe seed device change <<< "$run"
  (
    tail --pid="${!set}" -f /dev/null  # until the set is made
    exec timeout --signal TERM "$((limit - SECONDS))" "$python" -m meshgan.cli.main train "$recipe" --data "$out/$set" \
      --out "$out/$set-$recipe-${seed:-0}" --device "${device:-cuda}" --seed "${seed:-0}" --resume \
      --set "${change:-schedule.faces=144000}" > "$out/$set-$recipe-${seed:-0}.log" 2>&1
  ) &
done
wait
tail -qn 1 "$out"/*-*-*.log
echo quit | nvidia-cuda-mps-control || true
exit $failed
