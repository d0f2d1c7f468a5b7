# The second of two machines, before its reboot.
# shellcheck shell=bash disable=SC2154

share=/boot-test/share
step "beta: installation and configuration"
install "$package" | tail -n 1
useradd -m -G ds4 alice
cat >/etc/ds4d/ds4d.toml.d/local.toml <<'END'
name = "beta"
listen.address = "tcp://10.99.0.2:7341"
END
systemctl restart ds4d
ds4ctl keys show --node >"$share/beta.tmp"
mv "$share/beta.tmp" "$share/beta.node"
saw "node key: $(cat "$share/beta.node")"

step "beta: alpha's operator may command it"
eventually 120 test -e "$share/alpha.asked" || fail "alpha did not try"
saw "journal: $(journal | grep 'refused a connection' | tail -n 1)"
documented "refused a connection ..."
ds4ctl keys trust alpha "$(cat "$share/alpha.operator")"
touch "$share/beta.trusts"

eventually 120 test -e "$share/assigned" || fail "alpha did not assign"
equal "beta: alice gets" "$(ask_as alice)" "$answer"
touch "$share/beta.leaves"
printf '\nAll steps passed on beta; it goes down now.\n'
