# The .rpm packages: installed, upgraded and erased by rpm.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

from=$(echo /boot-test/packages/ds4d-[0-9]*-1.*.rpm) to=$(echo /boot-test/packages/ds4d-[0-9]*-2.*.rpm)
client=$(echo /boot-test/packages/libds4client-[0-9]*.rpm)
by_rpm() { rpm --force-debian --nodeps "$@" 2>&1 | sed 's/^/   rpm: /'; }

step "every library that they ask for is one that there is"
needed=$(rpm -qp --requires "$from" "$client" | sed -n 's/^\(lib.*\.so\.[0-9]*\)(.*/\1/p' | sort -u)
for library in $needed; do [[ $(ldconfig -p) == *"$library "* ]] || fail "there is no $library"; done
saw "$(tr '\n' ' ' <<<"$needed")"

step "installed, it waits to be started, and serves"
by_rpm -i "$client" "$from"
equal "state" "$(systemctl is-active ds4d || true)" inactive
systemctl enable --now ds4d
useradd -m -G ds4 alice
equal "alice gets" "$(ask_as alice)" "$answer"
equal "files that differ from the package" "$(rpm -V --nodeps ds4d)" ""
equal "state folder" "$(stat -c '%U:%G %a' /var/lib/ds4d)" "ds4d:ds4 700"

step "upgraded"
in_memfds
systemctl restart ds4d
echo '# mine' >>/etc/ds4d/ds4d.toml
old=$(main_pid)
by_rpm -U "$to"
another() { (($(main_pid) > 0 && $(main_pid) != old)) && answers; }
eventually 20 another || fail "it was not restarted"
saw "$(rpm -q ds4d), process $old -> $(main_pid)"
from_the_store
equal "settings" "$(tail -n 1 /etc/ds4d/ds4d.toml)" "# mine"
holds ".rpm: installed, upgraded with the weights in memory, by rpm's own scripts"

step "a stopped one stays stopped"
systemctl stop ds4d
by_rpm -U --oldpackage "$from"
equal "state" "$(systemctl is-active ds4d || true)" inactive
systemctl start ds4d
answers || fail "no answer after the downgrade"

step "erased"
old=$(main_pid)
by_rpm -e ds4d libds4client
if kill -0 "$old" 2>/dev/null; then fail "the agent still runs"; fi
[[ ! -e /run/ds4d && ! -e /usr/sbin/ds4d ]] || fail "it is still there"
[[ ! -e /etc/systemd/system/multi-user.target.wants/ds4d.service ]] || fail "it is still enabled"
saw "left: $(find /etc/ds4d /var/lib/ds4d -type f | sort | tr '\n' ' ')"
[[ -e /var/lib/ds4d/node.key && -e /etc/ds4d/ds4d.toml.rpmsave ]] || fail "state or settings were removed"
holds ".rpm: erased, state and changed settings stay"
printf '\nAll steps passed.\n'
