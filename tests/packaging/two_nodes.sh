#!/bin/bash
# usage: two_nodes.sh PACKAGE.deb...
#
# Two machines (containers with a virtual cable between them, and no other network) install the packages,
# form a route by the steps of ds4d(8), and one of them is rebooted. Needs what boot-test.sh needs, and
# iproute2. Exit status: 0 all steps passed, 1 one did not.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
[ $# -ge 1 ] || { sed -n 2p "$0" >&2; exit 2; }

work=$(mktemp -d /var/tmp/ds4-two-nodes.XXXXXX)
alpha=ds4-alpha-$$ beta=ds4-beta-$$
clean_up() {
  jobs -p | xargs -r kill 2>/dev/null || true
  wait
  ip netns del $alpha 2>/dev/null || true
  ip netns del $beta 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

ip netns add $alpha
ip netns add $beta
ip -n $alpha link add cable type veth peer name cable netns $beta
ip -n $alpha addr add 10.99.0.1/24 dev cable
ip -n $beta addr add 10.99.0.2/24 dev cable
for node in $alpha $beta; do ip -n $node link set lo up && ip -n $node link set cable up; done
mkdir "$work"/{share,alpha,beta}

# boot NAMESPACE NODE SCRIPT PACKAGE.deb...
boot() {
  local namespace=$1 keep=$2 script=$3
  shift 3
  cat "$here/boot/lib.sh" "$here/boot/$script.sh" >"$work/$script"
  BOOT_NET=--network-namespace-path=/run/netns/$namespace BOOT_KEEP=$work/$keep BOOT_SHARE=$work/share \
    "$here/boot-test.sh" "$@" "$work/$script" 2>&1 | sed -u "s/^/$keep | /"
}

status=0
boot $alpha alpha node_alpha "$@" &
boot $beta beta node_beta "$@" || status=1
if [ $status = 0 ]; then
  for _ in {1..300}; do [ -e "$work/share/alpha.saw" ] || sleep 0.2; done # how long beta is down
  boot $beta beta node_beta_again "$@" || status=1
fi
[ $status = 0 ] || kill $! 2>/dev/null || true
wait $! || status=1
[ $status = 0 ] && echo "two_nodes: all steps passed"
exit $status
