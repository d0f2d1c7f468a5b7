# The first of two machines: the documented steps up to a route, then what it sees of the other's reboot.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

share=/boot-test/share
state_is() { [[ $(ds4ctl status --json 2>/dev/null || true) == *"\"state\": \"$1\""* ]]; }
all_ready() { [[ $(ds4ctl status --json 2>/dev/null | grep -c '"state": "ready"') == 2 ]]; }

step "alpha: installation and configuration"
install "$package" | tail -n 1
useradd -m -G ds4 alice
cat >/etc/ds4d/ds4d.toml.d/local.toml <<'END'
name = "alpha"
listen.address = "tcp://10.99.0.1:7341"
END
systemctl restart ds4d
ds4ctl keys show --operator >"$share/alpha.operator"
saw "operator key: $(cat "$share/alpha.operator")"

step "alpha: the cluster file, with beta's key as beta showed it"
eventually 120 test -s "$share/beta.node" || fail "beta did not show its key"
cat >/etc/ds4d/cluster.toml <<END
[nodes]
alpha = "tcp://10.99.0.1:7341"
beta = { address = "tcp://10.99.0.2:7341", key = "$(cat "$share/beta.node")" }
END
if said=$(ds4ctl status 2>&1); then fail "beta answered somebody that it does not trust: $said"; fi
saw "before beta trusts us: $(tail -n 1 <<<"$said")"
holds "an operator whose key an agent does not know gets nothing from it"
# What whoever connects is greeted with: ZMTP 3 names the mechanism in bytes 12 to 31.
greeting() {
  exec 3<>/dev/tcp/10.99.0.2/7341
  printf '\xff\0\0\0\0\0\0\0\1\x7f\3' >&3
  timeout 5 head -c 32 <&3 | tail -c 20 | tr -d '\0'
  exec 3>&-
}
equal "mechanism of beta's port" "$(greeting)" CURVE
touch "$share/alpha.asked"
eventually 60 test -e "$share/beta.trusts" || fail "beta did not trust us"
ds4ctl status

step "alpha: a route over both"
ds4ctl assign alpha=0:2 beta=3:output | tail -n 1
ds4ctl status
equal "alice gets" "$(ask_as alice)" "$answer"
holds "two machines form a route with CURVE after the documented steps"
touch "$share/assigned"

step "alpha: beta goes away"
eventually 120 test -e "$share/beta.leaves" || fail "beta did not leave"
eventually 30 state_is degraded || fail "alpha did not notice"
ds4ctl status || true
if said=$(ask_as alice 2>&1); then fail "an answer without beta: $said"; fi
saw "alice is told: $said"
saw "journal: $(journal | grep 'degraded: no word from node' | tail -n 1)"
documented "degraded: ..."
touch "$share/alpha.saw"

step "alpha: and comes back"
eventually 180 all_ready || fail "the route is not ready again"
ds4ctl status
equal "alice gets" "$(ask_as alice)" "$answer"
eventually 120 test -e "$share/beta.done" || fail "beta is not done"
touch "$share/alpha.done"
holds "one of the two is rebooted: the route is degraded, then ready again by itself, on both"
printf '\nAll steps passed on alpha.\n'
