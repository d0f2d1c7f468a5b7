#!/usr/bin/env bash
# Everything that needs no GPU, from a fresh clone: packages, configure, build, tests.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/run.sh [--sanitize] [--help]

Installs the Debian packages that are missing (asks before using sudo), builds the preset `dev` in
build/dev and runs its tests.

  --sanitize   then the same under AddressSanitizer with UndefinedBehaviorSanitizer (preset asan) and
               under ThreadSanitizer (preset tsan)
  --help       this text

Exit status: 0 all tests passed, 1 something failed, 2 malformed command line.
END
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/dependencies.sh
source packaging/dependencies.sh

# run_preset NAME: configure, build, test; the words behind NAME run ctest.
run_preset() {
  local preset=$1
  shift
  printf '\n== %s ==\n' "$preset"
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  "$@" ctest --preset "$preset" -j "$(nproc)"
}

presets=(dev)
for argument in "$@"; do
  case $argument in
    --sanitize) presets=(dev asan tsan) ;;
    --help | -h)
      usage
      exit 0
      ;;
    *)
      printf 'run.sh: unknown argument %s\n\n' "$argument" >&2
      usage >&2
      exit 2
      ;;
  esac
done

ds4_install_packages "${ds4_build_packages[@]}" "${ds4_test_packages[@]}"

for preset in "${presets[@]}"; do
  wrapper=()
  # ThreadSanitizer of gcc 12 cannot live with the widest address randomisation of newer kernels.
  if [[ $preset == tsan ]] && setarch "$(uname -m)" -R true 2>/dev/null; then
    wrapper=(setarch "$(uname -m)" -R)
  fi
  run_preset "$preset" "${wrapper[@]}"
done
printf '\nall passed: %s\n' "${presets[*]}"
