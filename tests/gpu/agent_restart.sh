#!/usr/bin/env bash
# Kills an agent that holds a model in memory that outlives it, and measures how long its users wait.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/gpu/agent_restart.sh --model FILE [--bin FOLDER] [--strategy NAME] [--device NAME]
                                  [--prompt TEXT] [--help]

Starts ds4d with a descriptor store standing by, as a service manager's would, lets it serve the whole
model alone, asks it a question, kills it with SIGKILL, and asks the next one the same.

  --bin FOLDER     where ds4d and ds4ctl are (build/cuda/bin)
  --strategy NAME  cuda-device or memfd (cuda-device)
  --device NAME    what computes: cuda or cpu (cuda)
  --prompt TEXT    the question (What is the capital of France?)
  --help           this text

Exit status: 0 the answers were the same and no byte was read again, 1 not so, 2 malformed command line.
END
}

bin=build/cuda/bin
strategy=cuda-device
device=cuda
model=
prompt='What is the capital of France?'
while (($#)); do
  case $1 in
    --bin) bin=$2; shift 2 ;;
    --model) model=$(realpath "$2"); shift 2 ;;
    --strategy) strategy=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --prompt) prompt=$2; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'agent_restart.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n $model ]] || { usage >&2; exit 2; }

readonly load_timeout_s=180
work=$(mktemp -d /tmp/ds4-restart.XXXXXX)
store=
clean_up() {
  [[ -z $store ]] || kill "$store" 2>/dev/null
  [[ -z ${pid-} ]] || kill -9 "$pid" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$work"
}
trap clean_up EXIT

mkdir "$work/state"
cat >"$work/ds4d.toml" <<END
name = "a"
model = "$model"
state_dir = "$work/state"
standalone = true
listen.address = "tcp://127.0.0.1:$((20000 + RANDOM % 12000))"
client.socket = "$work/a.sock"
residency.strategy = "$strategy"
engine.device = "$device"
END

ask() { timeout 60 "$bin/ds4ctl" run --socket "$work/a.sock" --tokens 16 "$prompt" 2>/dev/null; }
# answer: the first answer that the agent gives, or nothing within the time.
answer() {
  local reply deadline=$((SECONDS + load_timeout_s))
  until reply=$(ask); do
    ((SECONDS < deadline)) || return 1
    sleep 0.02
  done
  printf '%s\n' "$reply"
}
agent_pid() { sed -n 's/^store: started pid \([0-9]*\) .*/\1/p' "$work/log" | tail -1; }
now_ms() { date +%s%3N; }

python3 "$(dirname "${BASH_SOURCE[0]}")/descriptor_store.py" "$bin/ds4d" --config "$work/ds4d.toml" \
  >"$work/log" 2>&1 &
store=$!
started=$(now_ms)
first=$(answer) || { tail -n 20 "$work/log"; exit 1; }
printf 'first answer after %d ms: %s\n' $(($(now_ms) - started)) "$first"
pid=$(agent_pid)
read_before=$(awk '/^rchar/ {print $2}' "/proc/$pid/io")

killed=$(now_ms)
kill -9 "$pid"
second=$(answer) || { tail -n 20 "$work/log"; exit 1; }
printf 'kill -9; the same question answered after %d ms: %s\n' $(($(now_ms) - killed)) "$second"
pid=$(agent_pid)
read_after=$(awk '/^rchar/ {print $2}' "/proc/$pid/io")
printf 'bytes read by the first agent %d, by the second %d\n' "$read_before" "$read_after"
grep -E 'store:|cover|resident|device' "$work/log"

[[ $first == "$second" ]] || { echo 'NOT OK: another answer'; exit 1; }
((read_after < read_before / 2)) || { echo 'NOT OK: the weights were read again'; exit 1; }
echo 'ok: the same answer, without reading the weights again'
