# Put before each script that runs inside a booted system. A step that fails ends the script, after saying what
# it saw. `holds` marks what a machine's administrator may rely on; run.sh gathers these lines.
# shellcheck shell=bash
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

question='What is the capital of France?'
answer='The capital of France is Paris.'

step() { printf '\n== %s\n' "$*"; }
saw() { printf '   saw: %s\n' "$*"; }
holds() { printf '   HOLDS: %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*"
  systemctl --no-pager --full status ds4d 2>&1 | head -n 20 || true
  journalctl --no-pager -u ds4d -n 40 -o short-monotonic 2>&1 || true
  exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# eventually SECONDS COMMAND...: until it succeeds.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# equal WHAT GOT WANTED
equal() {
  [[ $2 == "$3" ]] || fail "$1 is '$2', not '$3'"
  saw "$1: $2"
}

property() { systemctl show -p "$1" --value ds4d; }
main_pid() { property MainPID; }
now_ms() { date +%s%3N; }
# shellcheck disable=SC2120
journal() { journalctl --no-pager -u ds4d -o cat "$@"; }

# ask_as USER: the answer to the question.
ask_as() { runuser -u "$1" -- ds4ctl run "$question"; }
answers() { [[ $(ask_as alice 2>/dev/null) == "$answer" ]]; }

# figure NAME: the first number of that name that ds4ctl status --json shows.
figure() { ds4ctl status --json | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" | head -n 1; }
in_memfds() {
  mkdir -p /etc/ds4d/ds4d.toml.d
  printf '[residency]\nstrategy = "memfd"\n' >/etc/ds4d/ds4d.toml.d/memfd.toml
}

# from_the_store: the agent that runs has all its weights from the descriptor store, and has read next to
# nothing: the model's header and samples.
from_the_store() {
  local cover adopted read by_process
  cover=$(figure cover_bytes) adopted=$(figure adopted_bytes) read=$(figure read_bytes)
  by_process=$(sed -n 's/^rchar: //p' "/proc/$(main_pid)/io" 2>/dev/null || echo 0)
  ((cover > 0 && adopted == cover && read == 0)) ||
    fail "of $cover bytes $adopted were taken from the descriptor store and $read were read"
  ((by_process < cover / 2)) || fail "process $(main_pid) has read $by_process bytes, for a cover of $cover"
  saw "weights: cover $cover bytes, from the descriptor store $adopted, from the file $read; all that the process has read: $by_process"
}

# documented TEXT: ds4d(8) has it, word for word.
documented() { [[ $(zcat /usr/share/man/man8/ds4d.8.gz) == *"$1"* ]] || fail "ds4d(8) does not have: $1"; }

# install PACKAGE.deb...: no network is needed, dependencies are there.
install() { apt-get install -y -q --no-install-recommends --allow-downgrades "$@" 2>&1 | grep -v '^Reading\|^Building\|Reading database\|apt-utils' | sed 's/^/   apt: /'; }

# repacked VERSION: the package of the agent, as if it were another version. Its program differs in bytes that
# nobody reads, as that of another build would, and its model is the same with another date.
repacked() {
  local tree=/root/repacked-$1
  rm -rf "$tree"
  dpkg-deb -R "$package" "$tree"
  sed -i "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
  printf 'build %s' "$1" >>"$tree/usr/sbin/ds4d"
  touch "$tree"/usr/share/ds4d/*.gguf
  (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
  dpkg-deb -Znone -b "$tree" "/root/ds4d_$1.deb" >/dev/null
  rm -rf "$tree"
  echo "/root/ds4d_$1.deb"
}
declare -A packages # name -> file
for file in /boot-test/packages/*.deb; do packages[$(dpkg-deb -W --showformat='${Package}' "$file")]=$file; done
package=${packages[ds4d]}
