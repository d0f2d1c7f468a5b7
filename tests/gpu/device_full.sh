#!/usr/bin/env bash
# An agent whose GPU has no memory left says so, lives, and serves once there is some.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/gpu/device_full.sh [--bin FOLDER] [--model FILE] [--help]

Another process takes the device's memory down to the last 2 MiB; ds4d is told to hold the model there and must fail
with the reason; the other process goes; the same agent is assigned again and must answer.

  --bin FOLDER  where ds4d and ds4ctl are (build/cuda/bin)
  --model FILE  packaging/models/tiny-v4-q4.gguf
  --help        this text

Exit status: 0 so it was, 1 not so, 2 malformed command line.
END
}

bin=build/cuda/bin
model=packaging/models/tiny-v4-q4.gguf
while (($#)); do
  case $1 in
    --bin) bin=$2; shift 2 ;;
    --model) model=$2; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'device_full.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

work=$(mktemp -d /tmp/ds4-full.XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
mkdir "$work/state"
cat >"$work/ds4d.toml" <<END
name = "a"
model = "$(realpath "$model")"
state_dir = "$work/state"
listen.address = "tcp://127.0.0.1:$((20000 + RANDOM % 12000))"
client.socket = "$work/a.sock"
engine.device = "cuda"
residency.strategy = "cuda-device"
END
ctl() { timeout 60 "$bin/ds4ctl" --state-dir "$work/state" "$@"; }

"$bin/ds4d" --config "$work/ds4d.toml" >"$work/log" 2>&1 &
agent=$!
until [[ -S $work/a.sock ]]; do sleep 0.1; done

python3 - >"$work/hog" <<'END' &
import ctypes, signal
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    error = getattr(cuda, name)(*arguments)
    return error == 0 or None
context, at = ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0) and call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0) or exit("no device")
call("cuCtxSetCurrent", context)
size = 1 << 40
while size >= 1 << 21:  # ever smaller pieces, until not even 2 MiB are left
    if not call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(size)):
        size //= 2
print("full", flush=True)
signal.pause()
END
hog=$!
until grep -q full "$work/hog"; do kill -0 $hog || exit 1; sleep 0.1; done

printf '== no room ==\n'
said=$(ctl assign local=0:output 2>&1) && { echo "NOT OK: assigned without room"; exit 1; }
printf '%s\n' "$said"
grep -q 'device.*memory' <<<"$said" || { echo "NOT OK: no reason"; exit 1; }
ctl status
kill -0 $agent || { echo "NOT OK: the agent went"; cat "$work/log"; exit 1; }

printf '== room again ==\n'
kill $hog
wait $hog 2>/dev/null
ctl assign local=0:output || exit 1
answer=$(timeout 20 "$bin/ds4ctl" run --socket "$work/a.sock" 'What is the capital of France?')
printf '%s\n' "$answer"
cat "$work/log"
[[ $answer == 'The capital of France is Paris.' ]]
