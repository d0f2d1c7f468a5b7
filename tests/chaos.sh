#!/usr/bin/env bash
# Three agents of one route, each in a network of its own, answer while one of them is killed, stopped,
# cut off or restarted every few seconds. Every answer must be the one of the quiet run.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/chaos.sh [--generations N] [--clients N] [--pause SECONDS] [--seed N] [--bin FOLDER]
                      [--json] [--help]

  --generations N   answers to ask for while faults happen (40)
  --clients N       of them at a time (4)
  --pause SECONDS   between the end of a fault and the next (3)
  --seed N          of the choice of faults (1)
  --bin FOLDER      where ds4d and ds4ctl are (build/dev/bin)
  --json            nothing but the last line, which is always the JSON result

Faults, drawn at random: kill -9 of any agent; SIGSTOP for 5 s; a network cut for 5 s; kill -9 of the
entry, the agent that the clients ask. What was killed is started again after 0.5 s. Needs root, for
network namespaces; everything is removed at the end.

Exit status: 0 all answers equal, 1 not so, 2 malformed command line.
END
}

generations=40
clients=4
pause_s=3
seed=1
json=false
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bin=$PWD/build/dev/bin
while (($#)); do
  case $1 in
    --generations) generations=$2; shift 2 ;;
    --clients) clients=$2; shift 2 ;;
    --pause) pause_s=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --bin) bin=$(realpath "$2"); shift 2 ;;
    --json) json=true; shift ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'chaos.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

readonly model=$PWD/packaging/models/tiny-v4-q4.gguf
readonly nodes=(a b c)
declare -A layers=([a]=0:1 [b]=2:3 [c]=4:output)
declare -A host=([a]=10.77.0.1 [b]=10.77.0.2 [c]=10.77.0.3)
declare -A faults=([kill]=0 [stop]=0 [partition]=0 [entry]=0)
declare -A pids=()
work=$(mktemp -d /tmp/ds4-chaos.XXXXXX)
readonly net=ds4c$$
RANDOM=$seed

say() { $json || printf '%s\n' "$*"; }
die() { printf 'chaos.sh: %s\n' "$*" >&2; exit 1; }

# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local status=$? name
  trap - EXIT
  for name in "${nodes[@]}"; do
    [[ -n ${pids[$name]-} ]] && kill -CONT "${pids[$name]}" 2>/dev/null
    [[ -n ${pids[$name]-} ]] && kill_agent "$name"
    ip netns del "$net$name" 2>/dev/null
  done
  ip netns del "${net}hub" 2>/dev/null
  ((status == 0)) || tail -n 8 "$work"/*.log >&2
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT

# Each node's interface hangs on a bridge, which is in a namespace of its own too: the machine's own
# network is left alone.
make_network() {
  local name
  ip netns add "${net}hub" || die 'cannot make network namespaces: run as root'
  ip -n "${net}hub" link add bridge type bridge
  ip -n "${net}hub" link set bridge up
  for name in "${nodes[@]}"; do
    ip netns add "$net$name"
    ip -n "$net$name" link set lo up
    ip -n "$net$name" link add eth0 type veth peer name "to-$name" netns "${net}hub"
    ip -n "${net}hub" link set "to-$name" master bridge up
    ip -n "$net$name" addr add "${host[$name]}/24" dev eth0
    ip -n "$net$name" link set eth0 up
  done
}

start_agent() {
  local name=$1
  ip netns exec "$net$name" "$bin/ds4d" --config "$work/$name.toml" >>"$work/$name.log" 2>&1 &
  pids[$name]=$!
}

kill_agent() {
  kill -KILL "${pids[$1]}" 2>/dev/null
  wait "${pids[$1]}" 2>/dev/null
}

ctl() { ip netns exec "${net}a" "$bin/ds4ctl" --state-dir "$work/a" --cluster "$work/cluster.toml" "$@"; }

make_agents() {
  local name operator
  for name in "${nodes[@]}"; do
    cat >"$work/$name.toml" <<END
name = "$name"
model = "$model"
state_dir = "$work/$name"
listen.address = "tcp://${host[$name]}:7341"
client.socket = "$work/$name.sock"
engine.threads = 1
link.lost_ms = 5000
END
    start_agent "$name"
  done
  for name in "${nodes[@]}"; do
    for _ in {1..200}; do
      grep -q 'listening on' "$work/$name.log" && break
      sleep 0.1
    done
  done
  operator=$("$bin/ds4ctl" --state-dir "$work/a" keys show --operator) || die 'agent a made no keys'
  printf '[nodes]\n' >"$work/cluster.toml"
  for name in "${nodes[@]}"; do
    [[ $name == a ]] || ip netns exec "$net$name" "$bin/ds4ctl" --state-dir "$work/$name" \
      keys trust a "$operator" >/dev/null || die "agent $name does not answer"
    printf '%s = { address = "tcp://%s:7341", key = "%s" }\n' "$name" "${host[$name]}" \
      "$("$bin/ds4ctl" --state-dir "$work/$name" keys show --node)" >>"$work/cluster.toml"
  done
  ctl assign a=${layers[a]} b=${layers[b]} c=${layers[c]} >/dev/null 2>&1 || die 'no route'
}

# answer NUMBER: a long, sampled answer; which one, the number says.
answer() {
  "$bin/ds4ctl" run --socket "$work/a.sock" --wait 120 --raw -n 120 --temp 0.8 --seed "$(($1 % 8))" \
    "The ocean number $(($1 % 8)) is"
}

# client FIRST: every clients-th answer from FIRST on.
client() {
  local number
  for ((number = $1; number < generations; number += clients)); do
    answer "$number" >"$work/got.$number" 2>"$work/err.$number" || echo failed >>"$work/err.$number"
    touch "$work/ended.$number"
  done
}

one_fault() {
  local name=${nodes[RANDOM % 3]}
  case $((RANDOM % 4)) in
    0)
      faults[kill]=$((faults[kill] + 1))
      say "kill -9 of $name"
      kill_agent "$name"
      sleep 0.5
      start_agent "$name"
      ;;
    1)
      faults[stop]=$((faults[stop] + 1))
      say "SIGSTOP of $name for 5 s"
      kill -STOP "${pids[$name]}"
      sleep 5
      kill -CONT "${pids[$name]}"
      ;;
    2)
      faults[partition]=$((faults[partition] + 1))
      say "$name is cut off for 5 s"
      ip -n "${net}hub" link set "to-$name" down
      sleep 5
      ip -n "${net}hub" link set "to-$name" up
      ;;
    3)
      faults[entry]=$((faults[entry] + 1))
      say 'the entry is restarted'
      kill_agent a
      sleep 0.5
      start_agent a
      ;;
  esac
}

main() {
  local number first equal=0 lost=0 repeated=0 running=()
  make_network
  make_agents
  for number in {0..7}; do
    answer "$number" >"$work/want.$number" || die "the quiet run failed"
  done
  say "quiet run done"
  for ((first = 0; first < clients; ++first)); do
    client "$first" &
    running+=($!)
  done
  while kill -0 "${running[@]}" 2>/dev/null || (($(find "$work" -name 'ended.*' | wc -l) < generations)); do
    sleep "$pause_s"
    (($(find "$work" -name 'ended.*' | wc -l) < generations)) || break
    one_fault
  done
  wait "${running[@]}"
  for ((number = 0; number < generations; ++number)); do
    if cmp -s "$work/got.$number" "$work/want.$((number % 8))"; then
      equal=$((equal + 1))
      continue
    fi
    say "answer $number differs: $(head -c 200 "$work/err.$number")"
    if (($(stat -c %s "$work/got.$number") < $(stat -c %s "$work/want.$((number % 8))"))); then
      lost=$((lost + 1))
    else
      repeated=$((repeated + 1))
    fi
  done
  printf '{"generations":%d,"equal":%d,"faults":{"kill":%d,"stop":%d,"partition":%d,"entry":%d},"lost":%d,"repeated":%d}\n' \
    "$generations" "$equal" "${faults[kill]}" "${faults[stop]}" "${faults[partition]}" \
    "${faults[entry]}" "$lost" "$repeated"
  ((equal == generations))
}

main
