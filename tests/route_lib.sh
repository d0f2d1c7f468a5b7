# shellcheck shell=bash
# Three agents of one route, a, b and c, each in a network of its own: what tests/chaos.sh and
# tests/netem.sh share. They set bin (where ds4d and ds4ctl are) and json, make the networks, and call
# begin first.
# shellcheck disable=SC2154  # bin, json

model=$PWD/packaging/models/tiny-v4-q4.gguf
nodes=(a b c)
declare -A layers=([a]=0:1 [b]=2:3 [c]=4:output)
declare -A host=([a]=10.77.0.1 [b]=10.77.0.2 [c]=10.77.0.3)
declare -A pids=()
running=()  # the clients, see ask_all
net=ds4c$$

say() { $json || printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# begin: a scratch folder, and the end of everything that is begun from here on.
begin() {
  work=$(mktemp -d /tmp/ds4-route.XXXXXX)
  trap clean_up EXIT
}

# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local status=$? name client
  trap - EXIT
  for client in "${running[@]}"; do  # with the ds4ctl that each waits for
    # shellcheck disable=SC2046
    kill "$client" $(pgrep -P "$client") 2>/dev/null
  done
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

# add_namespaces: one for each node, with nothing but its loopback interface.
add_namespaces() {
  local name
  for name in "${nodes[@]}"; do
    ip netns add "$net$name" || die 'cannot make network namespaces: run as root'
    ip -n "$net$name" link set lo up
  done
}

# raise NAME: the node's eth0, however it was made.
raise() {
  ip -n "$net$1" addr add "${host[$1]}/24" dev eth0
  ip -n "$net$1" link set eth0 up
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
  ctl assign a="${layers[a]}" b="${layers[b]}" c="${layers[c]}" >/dev/null 2>&1 || die 'no route'
}

# answer NUMBER TOKENS: a long, sampled answer; which one, the number says.
answer() {
  "$bin/ds4ctl" run --socket "$work/a.sock" --wait 120 --raw -n "$2" --temp 0.8 --seed "$(($1 % 8))" \
    "The ocean number $(($1 % 8)) is"
}

# quiet_run TOKENS: want.0 to want.7, which everything later is compared with.
quiet_run() {
  local number
  for number in {0..7}; do
    answer "$number" "$1" >"$work/want.$number" || die 'the quiet run failed'
  done
  say 'quiet run done'
}

# ask_all ANSWERS CLIENTS TOKENS: in the background; its processes are in running.
ask_all() {
  local first
  running=()
  rm -f "$work"/{got,err,ended}.*
  for ((first = 0; first < $2; ++first)); do
    ask_some "$first" "$@" &
    running+=($!)
  done
}

# ask_some FIRST ANSWERS CLIENTS TOKENS: every CLIENTS-th answer from FIRST on.
ask_some() {
  local number
  for ((number = $1; number < $2; number += $3)); do
    answer "$number" "$4" >"$work/got.$number" 2>"$work/err.$number" || echo "exit status $?" >>"$work/err.$number"
    touch "$work/ended.$number"
  done
}

ended() { find "$work" -name 'ended.*' | wc -l; }

# count_answers ANSWERS: how many are equal to the quiet run's, shorter, longer, or of its length but not it.
count_answers() {
  local number got want
  equal=0 lost=0 repeated=0 different=0
  for ((number = 0; number < $1; ++number)); do
    if cmp -s "$work/got.$number" "$work/want.$((number % 8))"; then
      equal=$((equal + 1))
      continue
    fi
    say "answer $number differs: $(head -c 200 "$work/err.$number")"
    got=$(stat -c %s "$work/got.$number") want=$(stat -c %s "$work/want.$((number % 8))")
    if ((got < want)); then
      lost=$((lost + 1))
    elif ((got > want)); then
      repeated=$((repeated + 1))
    else
      different=$((different + 1))
    fi
  done
}

# settled: 0 once all three agents are ready and hold no session, in memory or on disk.
settled() {
  ctl status --json 2>/dev/null | python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
held = lambda s: s["sessions"] + s["kv_bytes"] + s["stage"]["stored_sessions"] + s["requests"]
sys.exit(not (len(nodes) == 3 and all(n["state"] == "ready" and held(n) == 0 for n in nodes)))'
}

# wait_until_settled SECONDS: 1, and what the agents say of themselves, if they do not settle.
wait_until_settled() {
  local end=$((SECONDS + $1))
  until settled; do
    if ((SECONDS >= end)); then
      ctl status --json >&2
      return 1
    fi
    sleep 0.5
  done
}
