#!/bin/bash
# usage: tests/packaging/run.sh [--vm] [FOLDER]
#
# Builds the .deb packages (or takes those of FOLDER) and boots them: one machine, its upgrade, its failures, two
# machines, and with --vm also a virtual machine, for the limits that only a kernel of its own enforces (qemu
# without KVM: minutes). Where ds4d-cuda is among the packages, it is installed, too. At the end, what holds.
# Needs root on Debian, debootstrap, systemd-container, iproute2; for --vm also qemu-system-x86 and e2fsprogs.
# Exit status: 0 all steps passed, 1 one did not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
vm=false
[[ ${1-} != --vm ]] || { vm=true && shift; }
[[ ${1-} != -* && $# -le 1 ]] || { sed -n 2p "$0" >&2 && exit 2; }
folder=${1:-build/packages}
[[ $# == 1 ]] || packaging/build.sh --out "$folder" deb
# The newest of each name.
package() { ls -t "$folder"/"$1"_*.deb | head -n 1; }
debs=("$(package ds4d)" "$(package libds4client1)" "$(package python3-ds4)")

script=$(mktemp)
said=$(mktemp)
trap 'rm -f "$script" "$said"' EXIT
one() {
  local name=$1
  shift
  printf '\n#### %s\n' "$name"
  cat tests/packaging/boot/lib.sh "tests/packaging/boot/$name.sh" >"$script"
  tests/packaging/boot-test.sh "$@" "$script"
}
all() {
  one service "${debs[@]}"
  one upgrade "${debs[@]}"
  one failures "${debs[@]}"
  if compgen -G "$folder/ds4d-cuda_*.deb" >/dev/null; then
    one cuda "${debs[@]}" "$(package ds4d-cuda)"
  fi
  printf '\n#### two_nodes\n'
  tests/packaging/two_nodes.sh "${debs[@]}"
  if $vm; then
    export BOOT_METHOD=vm BOOT_TIMEOUT=600
    one limits "${debs[@]}"
  fi
}
all 2>&1 | tee "$said"
printf '\nAll boot tests passed. What was seen to hold:\n'
sed -n 's/.*HOLDS: /  /p' "$said"
