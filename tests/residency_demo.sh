#!/usr/bin/env bash
# Holds three layers and the head of a 150 GiB model under a memory limit of their own size, their
# caches and 256 MiB, in the layer order of the file and with its tensors shuffled.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/residency_demo.sh [--build DIR] [--scratch DIR] [--layers RANGE] [--strategy NAME] [--help]

Writes a sparse Q4 file of DeepSeek V4 Flash (about 153 GiB apparent, 11 GiB on disk), runs ds4d with
its last layers in a control group with a memory limit, and prints the kernel's account. Twice: with
tensors in layer order and shuffled. Needs root (control groups), about 12 GiB of free memory and of
disk in the scratch directory, and programs that are built: ds4d, ds4-synth, agent_limit_test.

  --build DIR      where they are built (default: build/dev)
  --scratch DIR    for the model, removed afterwards (default: /var/tmp)
  --layers RANGE   what is held (default: 40:output)
  --strategy NAME  file or memfd (default: file)

Exit status: 0 within the limit both times, 1 not, 2 malformed command line.
END
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build/dev scratch=/var/tmp layers=40:output strategy=file
while (($# > 0)); do
  case $1 in
    --build) build=$2 && shift 2 ;;
    --scratch) scratch=$2 && shift 2 ;;
    --layers) layers=$2 && shift 2 ;;
    --strategy) strategy=$2 && shift 2 ;;
    --help | -h) usage && exit 0 ;;
    *)
      printf 'residency_demo.sh: unknown argument %s\n\n' "$1" >&2
      usage >&2
      exit 2
      ;;
  esac
done

model=$(mktemp -u "$scratch/ds4-residency-XXXXXX.gguf")
trap 'rm -f "$model"' EXIT
grep MemTotal /proc/meminfo
for order in layer shuffled; do
  printf '\n== tensors in order: %s ==\n' "$order"
  "$build/bin/ds4-synth" --out "$model" --model flash --recipe q4 --order "$order" \
    --populate "$layers"
  DS4_LIMIT_MODEL=$model DS4_LIMIT_LAYERS=$layers DS4_LIMIT_STRATEGY=$strategy \
    "$build/bin/agent_limit_test" --gtest_filter='MemoryLimitFull.*' --gtest_brief=1
  rm -f "$model"
done
