# What only a kernel of its own enforces: the limits that the unit raises, and those that it is given. For
# BOOT_METHOD=vm.
# shellcheck shell=bash disable=SC2154

step "the limits of the unit"
install "$package" | tail -n 1
eventually 120 systemctl is-active ds4d || fail "it is not active"
useradd -m -G ds4 alice
pid=$(main_pid)
equal "locked memory, soft limit" "$(awk '/^Max locked memory/ { print $4 }' "/proc/$pid/limits")" unlimited
equal "oom_score_adj" "$(cat "/proc/$pid/oom_score_adj")" -500
ds4ctl status
equal "bytes locked, says the kernel" "$(figure locked_bytes)" "$(figure cover_bytes)"
locked=$(sed -n 's/^VmLck:\s*\([0-9]*\) kB/\1/p' "/proc/$pid/status")
((locked * 1024 >= $(figure cover_bytes))) || fail "only $locked KiB of the process are locked"
holds "memory is locked without a limit: all of the cover ($locked KiB of the process), as the kernel says"

step "the kernel's own filter is on"
equal "seccomp" "$(sed -n 's/^Seccomp:\t//p' "/proc/$pid/status")" 2
saw "$(systemd-analyze --no-pager security --threshold=25 ds4d | tail -n 1)"
holds "systemd-analyze security: at most 2.5"

step "weights in a memfd: locked, too, and found again after kill -9"
in_memfds
systemctl restart ds4d
equal "alice gets" "$(ask_as alice)" "$answer"
equal "bytes locked, says the kernel" "$(figure locked_bytes)" "$(figure cover_bytes)"
old=$(main_pid)
kill -9 "$old"
eventually 60 answers || fail "no answer after kill -9"
saw "process $old -> $(main_pid), restarts: $(property NRestarts)"
from_the_store
equal "bytes locked, says the kernel" "$(figure locked_bytes)" "$(figure cover_bytes)"
holds "kill -9 under a kernel of its own: weights from the descriptor store, locked again"

step "MemoryMax= that holds them: what the store keeps counts once"
# Weights, caches and the program itself; not the weights twice.
systemctl set-property --runtime ds4d MemoryMax=112M
systemctl restart ds4d
equal "alice gets" "$(ask_as alice)" "$answer"
from_the_store
saw "MemoryMax=$(property MemoryMax) MemoryCurrent=$(property MemoryCurrent)"

step "MemoryMax= that does not: an answer with figures, not a crash"
systemctl set-property --runtime ds4d MemoryMax=20M
rm /etc/ds4d/ds4d.toml.d/memfd.toml
systemctl stop ds4d
systemctl start ds4d --no-block
refused() { [[ $(property StatusText) == failed:*MiB* ]]; }
eventually 120 refused || fail "it does not say that there is too little memory"
saw "$(systemctl show -p StatusText -p NRestarts -p MemoryMax ds4d | tr '\n' ' ')"
equal "killed for memory" "$(sed -n 's/^oom_kill //p' /sys/fs/cgroup/system.slice/ds4d.service/memory.events)" 0
holds "MemoryMax=: what does not fit is refused with figures, and nothing is killed"
systemctl revert ds4d
systemctl restart ds4d
equal "with room again, alice gets" "$(ask_as alice)" "$answer"
printf '\nAll steps passed.\n'
