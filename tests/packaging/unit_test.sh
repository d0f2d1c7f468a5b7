#!/bin/bash
# usage: unit_test.sh UNITS_FOLDER
#
# The unit is well formed, and its sandbox is not looser than a bound; with the drop-in for GPUs, too.
# Exit status 77 where there is no systemd-analyze that can tell offline.
set -euo pipefail
units=$(realpath "$1")
systemd-analyze --help 2>/dev/null | grep -q -- --offline || { echo "no systemd-analyze --offline here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Programs that only the installed system has are stood in for.
sed 's|^ExecStart=.*|ExecStart=/bin/true|' "$units/ds4d.service" >"$work/ds4d.service"
said=$(systemd-analyze verify --man=no "$work/ds4d.service" 2>&1) || { echo "$said"; exit 1; }
[ -z "$said" ] || { echo "systemd-analyze verify: $said"; exit 1; }

# exposure FILE BOUND: systemd counts from 0 (locked in) to 10; the bound is given in tenths.
exposure() {
  systemd-analyze --no-pager security --offline=true --threshold="$2" "$1" | tail -n 1
}
exposure "$work/ds4d.service" 25
# Offline it does not read drop-ins, so that the same lines are put where they would end up.
{ cat "$units/ds4d.service"; sed -n '/^\[Service\]/,$p' "$units/ds4d-cuda.conf"; } >"$work/ds4d-cuda.service"
exposure "$work/ds4d-cuda.service" 30
