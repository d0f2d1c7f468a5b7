# Sourced by tests/run.sh, packaging/demo.sh and packaging/build.sh: the Debian packages that building,
# testing and packaging need, named here and nowhere else, and the one way of installing them. Expects
# `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034

# To build ds4d, ds4ctl and ds4-eval.
ds4_build_packages=(
  cmake ninja-build g++ pkg-config
  libfmt-dev libexpected-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev
  libboost-dev libzmq3-dev cppzmq-dev libsystemd-dev libutf8proc-dev libxxhash-dev
)

# To build and run the tests and benchmarks as well.
ds4_test_packages=(libgtest-dev libgmock-dev libbenchmark-dev python3)

# To make and check packages.
ds4_package_packages=(dpkg-dev file lintian rpm rpmlint)

ds4_die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# ds4_missing_packages NAME...: those that are not installed, one a line.
ds4_missing_packages() {
  local name
  for name in "$@"; do
    if [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) != installed ]]; then
      printf '%s\n' "$name"
    fi
  done
}

# ds4_confirm QUESTION: yes from the terminal. Without a terminal there is nobody to ask: no.
ds4_confirm() {
  local answer
  [[ -t 0 ]] || return 1
  read -r -p "$1 [y/N] " answer
  [[ $answer == [yY]* ]]
}

# ds4_install_packages NAME...: installs those that are missing: silently as root, otherwise through
# sudo after asking.
ds4_install_packages() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    ds4_die "this needs a Debian or Ubuntu system (there is no apt-get here); on another system" \
      "install the equivalents of: $*, and build with: cmake --preset release && cmake --build --preset release"
  fi
  local missing
  mapfile -t missing < <(ds4_missing_packages "$@")
  ((${#missing[@]})) || return 0

  local as_root=(env DEBIAN_FRONTEND=noninteractive)
  if ((EUID != 0)); then
    local by_hand="apt-get install ${missing[*]}"
    command -v sudo >/dev/null || ds4_die "missing packages, and no sudo here; as root run: $by_hand"
    ds4_confirm "Install ${missing[*]} with sudo?" ||
      ds4_die "missing packages were not installed; to do it yourself: sudo $by_hand"
    as_root=(sudo "${as_root[@]}")
  fi
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    ds4_die "apt-get could not install: ${missing[*]}"
  fi
  rm -f "$log"
}
