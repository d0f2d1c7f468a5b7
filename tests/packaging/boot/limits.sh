# What only a kernel of its own enforces: the limits that the unit raises. For BOOT_METHOD=vm.
# shellcheck shell=bash disable=SC2154

step "limits"
install "$package" | tail -n 1
eventually 120 systemctl is-active ds4d || fail "it is not active"
pid=$(main_pid)
equal "locked memory, soft limit" "$(awk '/^Max locked memory/ { print $4 }' "/proc/$pid/limits")" unlimited
equal "oom_score_adj" "$(cat "/proc/$pid/oom_score_adj")" -500
locked=$(sed -n 's/^VmLck:\s*\([0-9]*\) kB/\1/p' "/proc/$pid/status")
((locked > 15000)) || fail "only $locked KiB are locked"
saw "locked: $locked KiB"
ds4ctl status

step "the kernel's own filter is on"
equal "seccomp" "$(sed -n 's/^Seccomp:\t//p' "/proc/$pid/status")" 2
saw "$(systemd-analyze --no-pager security --threshold=25 ds4d | tail -n 1)"

step "a limit on memory that the model does not fit is an answer, not a crash"
systemctl set-property --runtime ds4d MemoryMax=12M 2>/dev/null || true
systemctl restart ds4d --no-block
sleep 5
saw "$(systemctl show -p Result -p StatusText -p NRestarts ds4d | tr '\n' ' ')"
saw "$(journalctl --no-pager -u ds4d -o cat | tail -n 3)"
systemctl revert ds4d
systemctl restart ds4d
useradd -m -G ds4 alice
equal "with room again, alice gets" "$(ask_as alice)" "$answer"
printf '\nAll steps passed.\n'
