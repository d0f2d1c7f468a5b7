#!/usr/bin/env bash
# Two agents on this machine hold the embedded model between them and answer questions.
set -euo pipefail

usage() {
  cat <<'END'
usage: packaging/demo.sh [--help]

Installs the Debian packages that are missing (asks before using sudo), builds ds4d and ds4ctl in
build/demo, starts two agents that hold layers 0:2 and 3:output of the embedded model, and asks them
questions. Everything it starts stops with it; everything it writes outside build/ is in one temporary
directory, removed at the end.

Exit status: 0 the answer about France was right, 1 something failed, 2 malformed command line.
END
}

readonly question='What is the capital of France?'
readonly answer='The capital of France is Paris.'
readonly start_timeout_s=30
readonly stop_timeout_s=10

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/dependencies.sh
source packaging/dependencies.sh

readonly model=$PWD/packaging/models/tiny-v4-q4.gguf
readonly build=$PWD/build/demo
declare -A agents=() # name -> process id
work=

# A command, shown as one would type it, then run.
show() {
  local word shown='$'
  for word in "$@"; do
    [[ $word == *' '* ]] && word="\"$word\""
    shown+=" ${word/#$work/\$DEMO}"
  done
  printf '\n%s\n' "$shown"
  "$@"
}

is_running() { kill -0 "${agents[$1]}" 2>/dev/null; }

# stop_agents: SIGTERM, and after stop_timeout_s SIGKILL. Fails if one did not stop in order.
stop_agents() {
  local name deadline=$((SECONDS + stop_timeout_s)) failed=0
  for name in "${!agents[@]}"; do kill -TERM "${agents[$name]}" 2>/dev/null || true; done
  for name in "${!agents[@]}"; do
    while is_running "$name" && ((SECONDS < deadline)); do sleep 0.05; done
    kill -KILL "${agents[$name]}" 2>/dev/null || true
    if ! wait "${agents[$name]}" 2>/dev/null; then
      printf 'agent %s did not stop in order\n' "$name" >&2
      failed=1
    fi
  done
  agents=()
  return "$failed"
}

# On any exit: no agent and no file stays behind. After a failure, what the agents had to say.
clean_up() {
  local status=$?
  trap - EXIT
  set +e
  trap '' PIPE INT TERM # nothing interrupts the cleaning up, nor does a reader that went away
  stop_agents
  if ((status != 0)) && [[ -n $work ]]; then
    local log
    for log in "$work"/*.log; do
      [[ -s $log ]] && printf '\n-- the end of %s --\n%s\n' "${log##*/}" "$(tail -n 20 "$log")" >&2
    done
  fi
  [[ -z $work ]] || rm -rf "$work"
  exit "$status"
}

# Under a lock: two demos in one tree would build into the same directory at once.
build_programs() {
  printf 'building (log: build/demo.log)\n'
  mkdir -p build
  if ! (
    flock 9
    cmake --preset release -B "$build" -DDS4_TESTS=OFF -DDS4_BENCHMARKS=OFF >build/demo.log 2>&1 &&
      cmake --build "$build" --target ds4d ds4ctl ds4-eval >>build/demo.log 2>&1
  ) 9>build/demo.lock; then
    tail -n 30 build/demo.log >&2
    ds4_die 'the build failed'
  fi
}

# free_port TAKEN: a loopback port that nobody listens on, other than TAKEN. From below the range that
# the kernel hands out by itself.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    if [[ $port != "$1" ]] && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      printf '%s\n' "$port"
      return
    fi
  done
  ds4_die 'found no free port on 127.0.0.1'
}

# start_agent NAME PORT
start_agent() {
  local cores
  cores=$(nproc)
  mkdir -p "$work/$1.state"
  cat >"$work/$1.toml" <<END
name = "$1"
model = "$model"
state_dir = "$work/$1.state"
listen.address = "tcp://127.0.0.1:$2"
client.socket = "$work/$1.sock"
engine.threads = $((cores > 2 ? cores / 2 : 1))
END
  "$build/bin/ds4d" --config "$work/$1.toml" >"$work/$1.log" 2>&1 &
  agents[$1]=$!
}

wait_for_agents() {
  local deadline=$((SECONDS + start_timeout_s)) name
  for name in "${!agents[@]}"; do
    until ds4ctl --state-dir "$work/$name.state" keys list >/dev/null 2>&1; do
      is_running "$name" || ds4_die "agent $name has stopped"
      ((SECONDS < deadline)) || ds4_die "the agents did not answer within $start_timeout_s s"
      sleep 0.1
    done
  done
}

ask() {
  show ds4ctl run --socket "$work/a.sock" "$@"
}

main() {
  ds4_install_packages "${ds4_build_packages[@]}"
  build_programs
  PATH=$build/bin:$PATH

  # In /tmp whatever TMPDIR says: a socket's path may have 107 bytes.
  work=$(mktemp -d /tmp/ds4-demo.XXXXXX)
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 141' PIPE
  trap 'exit 143' TERM
  local port_a port_b
  port_a=$(free_port 0)
  port_b=$(free_port "$port_a")
  start_agent a "$port_a"
  start_agent b "$port_b"
  wait_for_agents

  # Each agent made its keys when it started. The operator of a introduces himself to b, and his
  # cluster file says by which key b is known.
  local operator
  operator=$(ds4ctl --state-dir "$work/a.state" keys show --operator)
  show ds4ctl --state-dir "$work/b.state" keys trust a "$operator"
  cat >"$work/cluster.toml" <<END
[nodes]
a = "tcp://127.0.0.1:$port_a"
b = { address = "tcp://127.0.0.1:$port_b", key = "$(ds4ctl --state-dir "$work/b.state" keys show --node)" }
END
  local ctl=(ds4ctl --state-dir "$work/a.state" --cluster "$work/cluster.toml")
  show "${ctl[@]}" assign a=0:2 b=3:output
  show "${ctl[@]}" status
  ask "$question" | tee "$work/answer"
  ask 'Define ocean.'
  ask 'What is 37 + 45?'
  ask --stats 'Which continent is Kenya in?'
  stop_agents || ds4_die 'an agent failed'

  # The last line: above it stands the command.
  local got
  got=$(tail -n 1 "$work/answer")
  [[ $got == "$answer" ]] || ds4_die "the answer should be \"$answer\", but is \"$got\""
  printf '\nThe demo worked.\n'
}

case ${1-} in
  '') main ;;
  --help | -h) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
