#!/usr/bin/env bash
# Runs `ds4-eval bench` and llama.cpp (npm package node-llama-cpp) on the same file, alternating, and
# prints the ratios. Needs node, npm and a release build; not part of the tests, which never time.
#
# usage: compare_llama.sh [MODEL] [ROUNDS]     environment: DS4_EVAL, YARDSTICK_DIR, THREADS="1 2"
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
model=$(realpath "${1:-$root/packaging/models/tiny-v4-q4.gguf}") rounds=${2:-3}
eval_bin=${DS4_EVAL:-$root/build/release/bin/ds4-eval}
yardstick=${YARDSTICK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ds4-llama-yardstick}
[ -x "$eval_bin" ] || { echo "compare_llama: $eval_bin is missing; build the release preset first" >&2; exit 1; }

mkdir -p "$yardstick"
cp "$root/tests/bench/llama_yardstick.mjs" "$yardstick/"
[ -d "$yardstick/node_modules/node-llama-cpp" ] ||
  npm install --prefix "$yardstick" --ignore-scripts --no-fund --no-audit node-llama-cpp@3.22 >/dev/null

for threads in ${THREADS:-1 2}; do
  for ((round = 1; round <= rounds; ++round)); do
    ours=$("$eval_bin" bench --model "$model" --prompt 512 --generate 128 --threads "$threads" --repeat 5 --json)
    theirs=$(cd "$yardstick" && node llama_yardstick.mjs "$model" 512 128 "$threads" 5)
    python3 - "$threads" "$ours" "$theirs" <<'PY'
import json, sys
threads, ours, theirs = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
for phase in ("prefill", "decode"):
    a, b = ours[phase + "_tps"], theirs[phase + "_tps"]
    print(f"threads {threads}  {phase:7}  ds4 {a:8.0f} tok/s  llama.cpp {b:8.0f} tok/s  ratio {a / b:.2f}")
PY
  done
done
