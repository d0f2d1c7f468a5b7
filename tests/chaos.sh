#!/usr/bin/env bash
# Three agents of one route, each in a network of its own, answer while one of them is killed, stopped,
# cut off or restarted every few seconds. Every answer must be the one of the quiet run.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/chaos.sh [--generations N] [--clients N] [--tokens N] [--pause SECONDS] [--seed N]
                      [--bin FOLDER] [--json] [--help]

  --generations N   answers to ask for while faults happen (40)
  --clients N       of them at a time (4)
  --tokens N        of an answer (400)
  --pause SECONDS   between the end of a fault and the next (3)
  --seed N          of the choice of faults (1)
  --bin FOLDER      where ds4d and ds4ctl are (build/dev/bin)
  --json            nothing but the last line, which is always the JSON result

Faults, drawn at random: kill -9 of any agent; SIGSTOP for 5 s; a network cut for 5 s; kill -9 of the
entry, the agent that the clients ask. What was killed is started again after 0.5 s. Needs root, for
network namespaces; everything is removed at the end.

When all is over, every session must be gone from all three agents, and with them the descriptors that
were opened; memory may have grown by 32 MiB. The last line has the answers that were shorter than the
quiet run's ("lost"), longer ("repeated") and neither ("different"), and per agent its age in seconds,
descriptors and memory in MiB before the faults and after them.

Exit status: 0 all answers equal and nothing left, 1 not so, 2 malformed command line.
END
}

generations=40
clients=4
tokens=400
pause_s=3
seed=1
json=false
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bin=$PWD/build/dev/bin
while (($#)); do
  case $1 in
    --generations) generations=$2; shift 2 ;;
    --clients) clients=$2; shift 2 ;;
    --tokens) tokens=$2; shift 2 ;;
    --pause) pause_s=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --bin) bin=$(realpath "$2"); shift 2 ;;
    --json) json=true; shift ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'chaos.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

# shellcheck source=tests/route_lib.sh
source tests/route_lib.sh
readonly growth_mib=32
declare -A faults=([kill]=0 [stop]=0 [partition]=0 [entry]=0)
declare -A born=() before=() after=()
RANDOM=$seed

# Each node's interface hangs on a bridge, which is in a namespace of its own too: the machine's own
# network is left alone.
make_network() {
  local name
  add_namespaces
  ip netns add "${net}hub"
  ip -n "${net}hub" link add bridge type bridge
  ip -n "${net}hub" link set bridge up
  for name in "${nodes[@]}"; do
    ip -n "$net$name" link add eth0 type veth peer name "to-$name" netns "${net}hub"
    ip -n "${net}hub" link set "to-$name" master bridge up
    raise "$name"
  done
}

restart() {
  kill_agent "$1"
  sleep 0.5
  start_agent "$1"
  born[$1]=$SECONDS
}

one_fault() {
  local name=${nodes[RANDOM % 3]}
  case $((RANDOM % 4)) in
    0)
      faults[kill]=$((faults[kill] + 1))
      say "kill -9 of $name"
      restart "$name"
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
      restart a
      ;;
  esac
}

# held NAME: its descriptors and MiB of memory.
held() {
  local process=/proc/${pids[$1]}
  printf '%d %d' "$(find "$process/fd" -mindepth 1 | wc -l)" \
    "$(awk '/^VmRSS/ { print int($2 / 1024) }' "$process/status")"
}

# Prints, as a member of the result, what each agent held before and holds now; 1 if something has grown.
report_growth() {
  local name fds_before mib_before fds mib text='' grown=0
  for name in "${nodes[@]}"; do
    read -r fds_before mib_before <<<"${before[$name]}"
    read -r fds mib <<<"${after[$name]}"
    ((fds <= fds_before && mib <= mib_before + growth_mib)) || grown=1
    text+=$(printf ',"%s":{"age_s":%d,"descriptors":[%d,%d],"memory_mib":[%d,%d]}' "$name" \
      $((SECONDS - ${born[$name]:-0})) "$fds_before" "$fds" "$mib_before" "$mib")
  done
  printf '"agents":{%s}' "${text#,}"
  return "$grown"
}

main() {
  local name settled=true growth grown=0
  begin
  make_network
  make_agents
  quiet_run "$tokens"
  wait_until_settled 60 || die 'sessions stay after the quiet run'
  for name in "${nodes[@]}"; do before[$name]=$(held "$name"); done
  ask_all "$generations" "$clients" "$tokens"
  while (($(ended) < generations)); do
    sleep "$pause_s"
    (($(ended) < generations)) || break
    one_fault
  done
  wait "${running[@]}"
  # Sessions of an entry that was killed are forgotten after a minute.
  wait_until_settled 120 || settled=false
  # So are connections that a peer's silence has ended: their heartbeats time out.
  for _ in {1..60}; do
    for name in "${nodes[@]}"; do after[$name]=$(held "$name"); done
    growth=$(report_growth) && grown=0 && break
    grown=1
    sleep 0.5
  done
  count_answers "$generations"
  printf '{"generations":%d,"equal":%d,"faults":{"kill":%d,"stop":%d,"partition":%d,"entry":%d},' \
    "$generations" "$equal" "${faults[kill]}" "${faults[stop]}" "${faults[partition]}" "${faults[entry]}"
  printf '"lost":%d,"repeated":%d,"different":%d,"sessions_gone":%s,%s,"seconds":%d}\n' \
    "$lost" "$repeated" "$different" "$settled" "$growth" "$SECONDS"
  ((equal == generations && grown == 0)) && $settled
}

main
