#!/usr/bin/env bash
# What a pipeline is worth: one agent with one thread, and two agents with one thread each that share
# the same model, measured in turn.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/bench/pipeline.sh [--rounds N] [--split LAYERS,LAYERS] [--model FILE] [--bin FOLDER]
                               [--threads N] [--toml TEXT] [--json] [--help]

  --rounds N       times that everything is measured, in turn (5); the median ratio is shown
  --split A,B      the layers of the two agents (0:2,3:output, which is even by time for the tiny model)
  --model FILE     GGUF file (packaging/models/tiny-v4-q4.gguf)
  --threads N      of each agent (1)
  --toml TEXT      more lines for every agent's ds4d.toml, such as 'pipeline.decode_wait_ms = 20'
  --bin FOLDER     where ds4d, ds4ctl and ds4-pipeline-load are (build/release/bin)
  --json           nothing but the last line, which is always the JSON result

Ratios want a quiet machine: the load average is part of the result, and beside every rate stands
the agents' processor time per token, which other programs change less.

Exit status: 0 measured, 1 failed, 2 malformed command line.
END
}

rounds=5
split=0:2,3:output
threads=1
toml=
json=false
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
model=$PWD/packaging/models/tiny-v4-q4.gguf
bin=$PWD/build/release/bin
while (($#)); do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --split) split=$2; shift 2 ;;
    --model) model=$(realpath "$2"); shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --toml) toml=$2; shift 2 ;;
    --bin) bin=$(realpath "$2"); shift 2 ;;
    --json) json=true; shift ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'pipeline.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

work=$(mktemp -d /tmp/ds4-bench.XXXXXX)
declare -A pids=()

say() { $json || printf '%s\n' "$*"; }
die() { printf 'pipeline.sh: %s\n' "$*" >&2; exit 1; }

# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local status=$?
  trap - EXIT
  ((${#pids[@]} == 0)) || { kill "${pids[@]}"; wait "${pids[@]}"; } 2>/dev/null
  ((status == 0)) || tail -n 8 "$work"/*.log >&2
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT

# start_agent NAME: on a free port, which its card says.
start_agent() {
  cat >"$work/$1.toml" <<END
name = "$1"
model = "$model"
state_dir = "$work/$1"
listen.address = "tcp://127.0.0.1:*"
client.socket = "$work/$1.sock"
engine.threads = $threads
$toml
END
  : >"$work/$1.log"
  "$bin/ds4d" --config "$work/$1.toml" >"$work/$1.log" 2>&1 &
  pids[$1]=$!
  for _ in {1..200}; do
    grep -q 'listening on' "$work/$1.log" && break
    sleep 0.1
  done
  address[$1]=$(sed -n 's/.*listening on //p' "$work/$1.log")
  [[ -n ${address[$1]} ]] || die "agent $1 does not start"
}

# The lone agent's route has one stage, the pair's two: one: all layers; a, b: the split.
declare -A address=()
for name in one a b; do start_agent "$name"; done
operator=$("$bin/ds4ctl" --state-dir "$work/a" keys show --operator) || die 'agent a made no keys'
"$bin/ds4ctl" --state-dir "$work/b" keys trust a "$operator" >/dev/null || die 'agent b does not answer'
printf '[nodes]\none = "%s"\n' "${address[one]}" >"$work/one.cluster"
printf '[nodes]\na = "%s"\nb = { address = "%s", key = "%s" }\n' "${address[a]}" "${address[b]}" \
  "$("$bin/ds4ctl" --state-dir "$work/b" keys show --node)" >"$work/two.cluster"
"$bin/ds4ctl" --state-dir "$work/one" --cluster "$work/one.cluster" assign one=0:output \
  >"$work/assign.log" 2>&1 || die 'the lone agent does not serve'
"$bin/ds4ctl" --state-dir "$work/a" --cluster "$work/two.cluster" assign "a=${split%,*}" "b=${split#*,}" \
  >>"$work/assign.log" 2>&1 || die 'the two agents do not serve'

# measure KIND WHO ARGUMENTS...: one line for the report at the end.
measure() {
  local kind=$1 who=$2 socket=one processes=${pids[one]} result
  shift 2
  [[ $who == one ]] || { socket=a; processes=${pids[a]},${pids[b]}; }
  result=$("$bin/ds4-pipeline-load" --socket "$work/$socket.sock" --pids "$processes" "$@") ||
    die "$kind of $who failed"
  printf '{"kind":"%s","who":"%s","result":%s}\n' "$kind" "$who" "$result" >>"$work/results"
}

for ((round = 0; round < rounds; ++round)); do
  for who in one two; do measure single "$who" decode --streams 1 --tokens 1000; done
  for who in one two; do measure eight "$who" decode --streams 8 --tokens 400; done
  for who in one two; do measure prefill "$who" prefill --prompt 4096; done
  for who in one two; do measure gaps "$who" gaps --prompt 1500; done
done

report=$(
  python3 - "$work/results" "$(cut -d' ' -f1 /proc/loadavg)" <<'PY'
import json, statistics, sys

results = [json.loads(line) for line in open(sys.argv[1])]
summary = {"rounds": sum(r["kind"] == "single" and r["who"] == "one" for r in results), "load": float(sys.argv[2])}
for kind in ("single", "eight", "prefill"):
    one, two = ([r["result"] for r in results if (r["kind"], r["who"]) == (kind, who)] for who in ("one", "two"))
    rate = lambda side: round(statistics.median(r["tokens_per_s"] for r in side), 1)
    cpu = lambda side: round(statistics.median(r["cpu_ms_per_token"] for r in side), 4)
    ratios = [b["tokens_per_s"] / a["tokens_per_s"] for a, b in zip(one, two)]
    summary[kind] = {"one": rate(one), "two": rate(two), "ratio": round(statistics.median(ratios), 3),
                     "ratios": [round(r, 3) for r in ratios], "cpu_ms_one": cpu(one), "cpu_ms_two": cpu(two)}
for who in ("one", "two"):
    gaps = [r["result"] for r in results if (r["kind"], r["who"]) == ("gaps", who)]
    summary["gaps_" + who] = {when: {key: round((max if key == "max" else statistics.median)(g[when][key] for g in gaps), 3)
                                     for key in ("p50", "p99", "max")} for when in ("quiet_ms", "busy_ms")}
print(json.dumps(summary))
PY
) || die 'no result'
if ! $json; then
  python3 - "$report" <<'PY'
import json, sys

report = json.loads(sys.argv[1])
print(f"load average {report['load']}, {report['rounds']} rounds")
names = {"single": "one stream, decode", "eight": "eight streams, decode", "prefill": "prefill of 4,096"}
for kind, name in names.items():
    r = report[kind]
    print(f"{name:22} one agent {r['one']:8.1f} tokens/s, two {r['two']:8.1f}: ratio {r['ratio']:.2f} "
          f"(cpu per token {r['cpu_ms_one']:.3f} ms, {r['cpu_ms_two']:.3f} ms)")
for who in ("one", "two"):
    for when, what in (("quiet_ms", "alone"), ("busy_ms", "beside a 1,500-token prompt")):
        g = report["gaps_" + who][when]
        print(f"between tokens, {who}, {what}: median {g['p50']:.2f} ms, 99 % {g['p99']:.2f} ms, most {g['max']:.2f} ms")
PY
fi
printf '%s\n' "$report"
