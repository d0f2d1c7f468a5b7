#!/usr/bin/env bash
# Demonstrates residency for a GPU with a model file of real size in memory-backed storage.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/gpu/residency.sh [--bin FOLDER] [--dir FOLDER] [--layers RANGE] [--small] [--help]

Writes a sparse Q4 Flash file (150 GiB apparent, the given layers populated) and shows, from the
driver's and the kernel's own figures:
  1  the layers resident in device memory, and how fast next to a pinned copy
  2  kill -9: the next process takes them over without a copy, with a descriptor store standing by
  3  kill -9 without a store: the device's memory is free again
  4  the layers registered read-only, without a copy
  (after 1 and 4: decode steps over them give finite logits)
  5  registering the whole file instead fails, in a child under a memory limit

Needs a GPU of compute capability 9.0 or newer with room for the layers, Linux 5.14, root (for a tmpfs
of its own), and as much memory as the layers take: 79 GiB for 21:output.

  --bin FOLDER    where ds4-synth and ds4-cuda-residency are (build/cuda/bin); the plugin in ../lib
  --dir FOLDER    where to mount the tmpfs (/mnt/ds4-residency)
  --layers RANGE  the layers to populate and hold (21:output)
  --small         a file of 1/8 of the layers, to try the script
  --help          this text

Exit status: 0 all shown, 1 something was not as it should be, 2 malformed command line.
END
}

bin=build/cuda/bin
dir=/mnt/ds4-residency
layers=21:output
sizes=()
while (($#)); do
  case $1 in
    --bin) bin=$2; shift 2 ;;
    --dir) dir=$2; shift 2 ;;
    --layers) layers=$2; shift 2 ;;
    --small) sizes=(--layers 6); layers=3:output; shift ;;
    --help | -h) usage; exit 0 ;;
    *) printf 'residency.sh: unknown argument %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

here=$(dirname "${BASH_SOURCE[0]}")
model=$dir/flash-q4.gguf
log=$dir/log
failures=0
step() { printf '\n== %s ==\n' "$*"; }
check() { # check WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then printf 'ok: %s\n' "$what"; else printf 'NOT OK: %s\n' "$what"; failures=$((failures + 1)); fi
}
device_used_mib() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1; }
resident() { timeout -s KILL 120 "$bin/ds4-cuda-residency" --model "$model" --layers "$layers" "$@"; }
wait_for() { # wait_for COUNT TEXT: until the log has that many lines of it
  local deadline=$((SECONDS + 60))
  until (($(grep -c -- "$2" "$log") >= $1)); do
    ((SECONDS < deadline)) || return 1
    sleep 0.01
  done
}
now_ms() { date +%s%3N; }

mkdir -p "$dir"
mount -t tmpfs -o size=100g,huge=within_size tmpfs "$dir" 2>/dev/null ||
  mount -t tmpfs -o size=100g tmpfs "$dir" || exit 1
trap 'umount -l "$dir"; rmdir "$dir"' EXIT

step "the file"
timeout 240 "$bin/ds4-synth" --out "$model" --recipe q4 --populate "$layers" "${sizes[@]}" || exit 1
du -h --apparent-size "$model"
du -h "$model"
idle_mib=$(device_used_mib)
printf 'device memory in use before: %s MiB\n' "$idle_mib"

step "1 device memory"
for readers in 8 16; do
  check "resident in device memory with $readers readers, and computing" resident --rate --readers $readers --decode
done

step "2 kill -9 with a descriptor store"
: >"$log"
python3 "$here/descriptor_store.py" "$bin/ds4-cuda-residency" --model "$model" --layers "$layers" --hold >>"$log" 2>&1 &
store=$!
if wait_for 1 '^holding'; then
  pid=$(sed -n 's/^pid \([0-9]*\) resident.*/\1/p' "$log" | tail -1)
  killed=$(now_ms)
  kill -9 "$pid"
  check "the next process is resident" wait_for 2 '^pid .* resident'
  printf 'kill to resident again: %d ms\n' $(($(now_ms) - killed))
  wait_for 2 '^holding'
  check "without a byte copied" grep -q '^0.00 GiB copied, [1-9]' "$log"
  pid=$(sed -n 's/^pid \([0-9]*\) resident.*/\1/p' "$log" | tail -1)
fi
cat "$log"
kill "$store" 2>/dev/null
kill -9 "$pid" 2>/dev/null
wait "$store" 2>/dev/null

step "3 kill -9 without a store"
: >"$log"
"$bin/ds4-cuda-residency" --model "$model" --layers "$layers" --hold >>"$log" 2>&1 &
holder=$!
wait_for 1 '^holding'
printf 'device memory in use: %s MiB\n' "$(device_used_mib)"
kill -9 $holder
wait $holder 2>/dev/null
sleep 1
used=$(device_used_mib)
printf 'device memory in use after kill -9: %s MiB\n' "$used"
check "the device's memory is free again" test "$used" -le $((idle_mib + 64))

step "4 registered read-only"
check "registered, and computing" resident --registered --decode

step "5 the whole file, in a child that may take 8 GiB"
cgroup=/sys/fs/cgroup/ds4-residency
if [[ -f /sys/fs/cgroup/cgroup.controllers ]] || mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; then
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
  mkdir -p $cgroup && echo 8G >$cgroup/memory.max
fi
limited=false
[[ -f $cgroup/memory.max ]] && limited=true
$limited || echo "no cgroup can be made here: the tmpfs is the limit"
(
  $limited && echo $BASHPID >$cgroup/cgroup.procs
  exec timeout -s KILL 60 "$bin/ds4-cuda-residency" --model "$model" --whole-file
)
status=$?
printf 'exit status %d\n' $status
if $limited; then grep -E '^(max|oom|oom_kill) ' $cgroup/memory.events; cat $cgroup/memory.peak; fi
check "registering the whole file fails" test $status -ne 0
rmdir $cgroup 2>/dev/null

printf '\n%d not as it should be\n' "$failures"
((failures == 0))
