#!/usr/bin/env bash
# Everything that only a GPU can show, in about ten minutes on one card:
#
#     pip install -e '.[bench]'
#     benchmarks/gpu.sh [FILE]
#
# FILE (default: benchmarks/results/gpu.json) gets the card's name and each part as it ends, so what
# was measured before an interruption is kept. Without a GPU it says so and exits 3.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
file=${1:-benchmarks/results/gpu.json}
status=0
for part in prediction cards variable exactness throughput; do
    script=(benchmarks/gpu_memory.py "$part")
    [ "$part" = throughput ] && script=(benchmarks/gpu_throughput.py)
    timeout "${PART_S:-300}" "$python" "${script[@]}" --device "${DEVICE:-cuda:0}" --json "$file"
    code=$?
    [ "$code" = 3 ] && exit 3
    [ "$code" = 0 ] || { echo "$part ended with $code" >&2; status=1; }
done
exit "$status"
