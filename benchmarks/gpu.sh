#!/usr/bin/env bash
# Everything that only a GPU can show, in about seven minutes on one card:
#
#     pip install -e '.[bench,fused]'
#     benchmarks/gpu.sh [--quick] [FILE]
#
# FILE (default: benchmarks/results/gpu.json) gets the card's name and each part as it ends, so what
# was measured before an interruption is kept. Without a GPU it says so and exits 3.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
quick=()
[ "${1:-}" = --quick ] && { quick=(--quick); shift; }
file=${1:-benchmarks/results/gpu.json}
status=0
run() { # a script, and its parts if it has any
    timeout "${PART_S:-300}" "$python" "benchmarks/$1" "${quick[@]}" \
        --device "${DEVICE:-cuda:0}" --json "$file" "${@:2}"
    local code=$?
    [ "$code" = 3 ] && exit 3
    [ "$code" = 0 ] || { echo "$1 ended with $code" >&2; status=1; }
}
run gpu_throughput.py
run gpu_memory.py exactness variable cards prediction
exit "$status"
