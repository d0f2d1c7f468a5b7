# The second of two machines, after its reboot: nobody does anything.
# shellcheck shell=bash disable=SC2154

step "beta: after the reboot"
eventually 120 answers || fail "no answer after the reboot"
equal "beta: alice gets" "$(ask_as alice)" "$answer"
saw "$(journalctl --no-pager -b -u ds4d -o cat | grep -E 'ready|Started' | tail -n 1)"
touch /boot-test/share/beta.done
eventually 120 test -e /boot-test/share/alpha.done || fail "alpha did not see us" # it looks while we are up
printf '\nAll steps passed on beta.\n'
