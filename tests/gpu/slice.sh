#!/usr/bin/env bash
# Shows that the CUDA slice computes what it must, and how fast at DeepSeek V4 Flash's real sizes.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/gpu/slice.sh [--bin FOLDER] [--log FOLDER] [--only STEPS] [--help]

  tests     cuda_slice_test: reference vectors, bit identity, refusals; kernels one by one, sampled
            tokens, and a GPU that fails
  sanitize  small cases of them under compute-sanitizer: memcheck, racecheck, initcheck
  compare   Flash's sizes with few layers and experts, layer by layer against the CPU, and
            against itself with other cuts into calls
  bench     Flash Q2 whole, random weights in device memory (81 GiB): prefill, decode, profile
  sessions  the same with 16 sessions
  long      the same behind 65,536 positions
  eval      ds4-eval on the embedded model: the plugin, device and registered memory, a split

  --bin FOLDER   where the programs are (build/cuda/bin)
  --log FOLDER   where the logs go (/tmp)
  --only STEPS   comma-separated; all by default

Exit status: 0 all passed, 1 something failed, 2 malformed command line.
END
}

bin=build/cuda/bin
log=/tmp
only=tests,sanitize,compare,bench,sessions,long,eval
while (($#)); do
  case $1 in
    --bin) bin=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'slice.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

failures=0
wanted() { [[ ,$only, == *,$1,* ]]; }
run() { # run SECONDS NAME COMMAND...
  local limit=$1 name=$2 start=$SECONDS
  shift 2
  printf '\n== %s ==\n' "$name"
  timeout -s KILL "$limit" "$@" >"$log/$name.log" 2>&1
  local status=$?
  grep -vE '^\[ RUN|^\[       OK|^$' "$log/$name.log" | tail -45
  printf '(%s: status %d, %d s)\n' "$name" $status $((SECONDS - start))
  ((status == 0)) || failures=$((failures + 1))
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
if wanted tests; then
  run 150 tests "$bin/cuda_slice_test"
  run 60 kernels "$bin/cuda_kernels_test"
  run 60 products "$bin/cuda_wide_products_test"
  run 60 one-row "$bin/cuda_one_row_test"
  run 60 sampling "$bin/cuda_sampling_test"
  run 30 device-loss "$bin/cuda_device_loss_test"
fi
if wanted sanitize; then
  check() { run 120 "$1-$2" compute-sanitizer --tool "$1" --error-exitcode 3 "$bin/cuda_$2_test" "--gtest_filter=$3"; }
  check memcheck slice 'CudaSlice.*:All/CudaLayers.*/1'
  check memcheck kernels '*'
  check memcheck wide_products '*FewRows*:*Halves*:*SeveralShare*:QuantisedRows.*'
  check memcheck one_row '*'
  check memcheck sampling '*-*Thousands*'
  for tool in racecheck initcheck; do
    check $tool slice 'CudaSlice.*'
    check $tool kernels 'Shapes/*/1:Widths/*/0:Rows/*/2'
    check $tool sampling 'CudaSampling.EveryKind*'
    check $tool one_row '*'
  done
fi
if wanted compare; then
  "$bin/ds4-synth" --out "$work/small.gguf" --recipe q2 --layers 5 --experts 16 --vocab 8192 \
    --populate 0:output >/dev/null
  run 120 compare "$bin/cuda_slice_bench" --model "$work/small.gguf" --compare --prompt 300
  run 60 invariance "$bin/cuda_slice_bench" --model "$work/small.gguf" --invariance --prompt 2300
fi
if wanted bench || wanted sessions || wanted long; then
  "$bin/ds4-synth" --out "$work/flash.gguf" --recipe q2 >/dev/null
fi
bench() { run "$1" "$2" "$bin/cuda_slice_bench" --model "$work/flash.gguf" "${@:3}"; }
if wanted bench; then
  bench 100 bench
  bench 100 profile --profile --generate 4
fi
if wanted sessions; then bench 100 sessions --sessions 1,4,16 --prompt 512; fi
if wanted long; then bench 150 long --context 65536; fi
if wanted eval; then
  model=packaging/models/tiny-v4-q4.gguf
  generate() { run 60 "eval-$1" "$bin/ds4-eval" generate --model $model --prompt 'What is the capital of France?' --tokens 12 "${@:2}"; }
  generate cpu
  generate cuda --backend cuda
  generate split --backend cuda --split 0:2,3:output
  generate registered --backend cuda-registered
  run 60 eval-bench "$bin/ds4-eval" bench --model $model --backend cuda
fi
((failures == 0)) || { printf '\n%d steps failed\n' $failures; exit 1; }
