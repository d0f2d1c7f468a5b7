#!/usr/bin/env bash
# Three agents of one route, each in a network of its own, over a network that delays and loses packets:
# everything completes, and with the texts of the quiet run. Then one node is cut off and comes back.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/netem.sh [--delay MS] [--loss PERCENT] [--answers N] [--clients N] [--tokens N] [--seed N]
                      [--bin FOLDER] [--json] [--help]

  --delay MS      of every packet, each way (50)
  --loss PERCENT  of all packets (1)
  --answers N     to ask for over such a network (16), and again while a node is cut off for 5 s
  --clients N     of them at a time (4)
  --tokens N      of an answer (60)
  --seed N        of the choice of packets (1)
  --bin FOLDER    where ds4d and ds4ctl are (build/dev/bin)
  --json          nothing but the last line, which is always the JSON result

Delay and loss are those of tests/net_relay.py, which carries the namespaces' packets from one to the
other, and not of `tc netem`, which many kernels lack. TCP, retransmissions included, is the kernel's.
Needs root, for network namespaces; everything is removed at the end.

Exit status: 0 all answers equal, 1 not so, 2 malformed command line.
END
}

delay_ms=50
loss=1
answers=16
clients=4
tokens=60
seed=1
json=false
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
bin=$PWD/build/dev/bin
while (($#)); do
  case $1 in
    --delay) delay_ms=$2; shift 2 ;;
    --loss) loss=$2; shift 2 ;;
    --answers) answers=$2; shift 2 ;;
    --clients) clients=$2; shift 2 ;;
    --tokens) tokens=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --bin) bin=$(realpath "$2"); shift 2 ;;
    --json) json=true; shift ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'netem.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

# shellcheck source=tests/route_lib.sh
source tests/route_lib.sh

order() { printf '%s\n' "$@" >&"${relay[1]}"; }

make_network() {
  local name devices=() word
  add_namespaces
  for name in "${nodes[@]}"; do devices+=("$name=$net$name=${host[$name]}"); done
  coproc relay { exec python3 tests/net_relay.py --seed "$seed" "${devices[@]}"; }
  read -r word <&"${relay[0]}"
  [[ $word == ready ]] || die 'the relay did not start'
  for name in "${nodes[@]}"; do raise "$name"; done
}

# counted KEY: as a member of the result, the answers and what the network did meanwhile.
counted() {
  local packets dropped cut
  count_answers "$answers"
  order figures
  read -r packets dropped cut <&"${relay[0]}"
  all_equal=$((all_equal && equal == answers))
  result+=$(printf '"%s":{"equal":%d,"lost":%d,"repeated":%d,"different":%d,"seconds":%d,"packets":%d,"packets_lost":%d,"packets_cut":%d},' \
    "$1" "$equal" "$lost" "$repeated" "$different" $((SECONDS - begun)) "$packets" "$dropped" "$cut")
}

main() {
  local result='' begun all_equal=1 settled=true
  begin
  make_network
  make_agents
  quiet_run "$tokens"

  order "delay $delay_ms" "loss $loss" figures
  read -r _ <&"${relay[0]}"
  begun=$SECONDS
  ask_all "$answers" "$clients" "$tokens"
  wait "${running[@]}"
  counted impaired

  say 'node b is cut off for 5 s'
  begun=$SECONDS
  ask_all "$answers" "$clients" "$tokens"
  sleep 3
  order 'cut b'
  sleep 5
  order 'heal b'
  wait "${running[@]}"
  counted partition

  wait_until_settled 120 || settled=false
  printf '{"delay_ms":%s,"loss_percent":%s,"answers":%d,%s"sessions_gone":%s}\n' "$delay_ms" "$loss" \
    "$answers" "$result" "$settled"
  ((all_equal)) && $settled
}

main
