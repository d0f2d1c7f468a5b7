# One machine: installation, access, crash, hang, reload, restart, planned work, removal, purge.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

step "installing gives a running service that answers"
install "$package"
equal "state" "$(systemctl is-active ds4d)" active
equal "enabled" "$(systemctl is-enabled ds4d)" enabled
useradd -m -G ds4 alice
useradd -m bob
holds "the .deb is installed and the service is active, with the model that it brings"
equal "a member of group ds4 gets" "$(ask_as alice)" "$answer"
holds "an unprivileged user in group ds4 gets Paris from ds4ctl run"
saw "$(systemctl show -p StatusText ds4d)"
ds4ctl status
equal "bytes in memory, says the kernel" "$(figure incore_bytes)" "$(figure cover_bytes)"

step "a user outside the group is refused, by the name of the group"
if said=$(ask_as bob 2>&1); then fail "bob got '$said'"; fi
[[ $said == *"group ds4"* ]] || fail "bob was told '$said'"
saw "$said"
holds "a user outside group ds4 is refused"

step "Python, too"
if [[ -e ${packages[python3-ds4]-} ]]; then
  install "${packages[libds4client1]}" "${packages[python3-ds4]}" | tail -n 1
  equal "python3 says" "$(runuser -u alice -- python3 -c "
import ds4
print(''.join(str(token) for token in ds4.connect().generate('$question')))")" "$answer"
fi

step "the sandbox"
systemd-analyze --no-pager security --threshold=25 ds4d | tail -n 1
saw "limit of locked memory: $(sed -n 's/^Max locked memory *//p' "/proc/$(main_pid)/limits")"
saw "oom_score_adj: $(cat "/proc/$(main_pid)/oom_score_adj"), capabilities: $(sed -n 's/^CapEff:\t//p' "/proc/$(main_pid)/status"), seccomp: $(sed -n 's/^Seccomp:\t//p' "/proc/$(main_pid)/status")"
saw "who: $(ps -o user=,group= -p "$(main_pid)" 2>/dev/null || stat -c '%U %G' "/proc/$(main_pid)")"
equal "state folder" "$(stat -c '%U:%G %a' /var/lib/ds4d)" "ds4d:ds4 700"
equal "socket" "$(stat -c '%U:%G %a' /run/ds4d/client.sock)" "ds4d:ds4 660"

step "killed, it is back, with its weights from systemd's descriptor store"
in_memfds
systemctl restart ds4d
answers || fail "no answer with weights in a memfd"
stored=$(property NFileDescriptorStore)
((stored > 0)) || fail "nothing is in the descriptor store"
saw "descriptors in the store: $stored"
old=$(main_pid)
began=$(now_ms)
kill -9 "$old"
eventually 10 answers || fail "no answer within 10 s of kill -9"
took=$(($(now_ms) - began))
saw "killed process $old, process $(main_pid) answered after $took ms, restarts: $(property NRestarts)"
[[ $(main_pid) != "$old" ]] || fail "it was not killed"
saw "$(journal "_PID=$(main_pid)" | grep resident | tail -n 1)"
from_the_store
((took < 2000)) || fail "that is more than 2 s"
holds "kill -9: back within 2 s ($took ms to the next answer), weights from the descriptor store"

step "hung, the watchdog restarts it"
mkdir -p /run/systemd/system/ds4d.service.d
printf '[Service]\nWatchdogSec=2s\nTimeoutAbortSec=5s\n' >/run/systemd/system/ds4d.service.d/test.conf
printf '[engine]\nstuck_ms = 1000\n' >/etc/ds4d/ds4d.toml.d/test.toml
systemctl daemon-reload
systemctl restart ds4d
restarts=$(property NRestarts)
kill -STOP "$(main_pid)"
restarted() { (($(property NRestarts) > restarts)) && answers; }
eventually 30 restarted || fail "a stopped process was not restarted"
saw "$(journal | grep -m 1 -i watchdog)"

step "a hung engine thread, too"
# Its thread alone is stopped, as ptrace can; the main loop lives.
cat >/root/hang.pl <<'PERL'
# Stops the engine thread of a process, and keeps it stopped for as long as this lives.
my $pid = shift;
my ($ptrace, $seize, $interrupt) = (101, 0x4206, 0x4207);
opendir(my $tasks, "/proc/$pid/task") or die;
for my $tid (grep { /^\d+$/ && $_ != $pid } readdir $tasks) {
  open(my $file, "<", "/proc/$pid/task/$tid/comm"); my $name = <$file>; chomp $name;
  next unless $name eq "engine";
  syscall($ptrace, $seize, $tid + 0, 0, 0) == 0 or die "seize $tid: $!";
  syscall($ptrace, $interrupt, $tid + 0, 0, 0) == 0 or die "interrupt $tid: $!";
  print "stopped thread $tid ($name)\n";
}
$| = 1; print "hanging\n"; sleep 60;
PERL
restarts=$(property NRestarts)
perl /root/hang.pl "$(main_pid)" >/root/hang.out 2>&1 &
hanger=$!
eventually 10 grep -q hanging /root/hang.out || fail "could not stop the threads: $(cat /root/hang.out)"
saw "$(grep -c 'stopped thread' /root/hang.out) threads stopped; the main loop lives: $(ds4ctl status >/dev/null 2>&1 && echo answers || echo silent)"
timeout 20 runuser -u alice -- ds4ctl run "$question" >/dev/null 2>&1 &
noticed() { [[ $(property Result) == watchdog ]]; }
eventually 20 noticed || fail "a hung engine was not noticed"
kill "$hanger" # a process whose threads are traced is not gone until its tracer is
eventually 30 restarted || fail "no answer after the hung engine"
saw "restarts: $restarts -> $(property NRestarts), and it answers"
saw "$(journal | grep -i watchdog | tail -n 1)"
from_the_store
holds "a hung engine: the watchdog restarts the agent"
rm /etc/ds4d/ds4d.toml.d/test.toml /run/systemd/system/ds4d.service.d/test.conf
systemctl daemon-reload
systemctl restart ds4d

step "reload: what is wrong changes nothing, what is right takes effect"
old=$(main_pid)
printf '[log]\nlevle = "debug"\n' >/etc/ds4d/ds4d.toml.d/test.toml
if systemctl reload ds4d 2>/dev/null; then fail "a broken configuration was reloaded"; fi
saw "$(journal | grep -m 1 levle)"
printf '[log]\nlevel = "debug"\n[engine]\nthreads = 1\n' >/etc/ds4d/ds4d.toml.d/test.toml
systemctl reload ds4d
eventually 5 bash -c 'journalctl --no-pager -u ds4d -o cat | grep "configuration read again"' || fail "nothing was reloaded"
saw "$(journal | grep -m 1 'configuration read again')"
equal "process before and after" "$(main_pid)" "$old"
rm /etc/ds4d/ds4d.toml.d/test.toml

step "a wrong configuration stops the service once, not for ever"
printf 'nonsense = 1\n' >/etc/ds4d/ds4d.toml.d/test.toml
if systemctl restart ds4d 2>/dev/null; then fail "it started with a wrong configuration"; fi
sleep 1.5
equal "state" "$(systemctl is-active ds4d || true)" failed
saw "$(journal | grep -m 1 nonsense)"
rm /etc/ds4d/ds4d.toml.d/test.toml
systemctl start ds4d
eventually 10 answers || fail "no answer"

step "systemctl restart"
old=$(main_pid)
systemctl restart ds4d
answers || fail "no answer after a restart, which waits until it is ready"
saw "process $old -> $(main_pid)"
from_the_store
holds "systemctl restart: it answers as soon as the command is back, weights from the descriptor store"

step "planned work"
ds4ctl drain
if said=$(ask_as alice 2>&1); then fail "a drained agent answered '$said'"; fi
saw "alice is told: $(tail -n 1 <<<"$said")"
ds4ctl drain --undo
answers || fail "no answer after drain --undo"

step "layers are assigned, which is what removal must keep"
printf '[nodes]\n%s = "tcp://127.0.0.1:7341"\n' "$(hostname)" >/etc/ds4d/cluster.toml
ds4ctl assign "$(hostname)=0:output" | tail -n 1

step "remove leaves state and configuration"
old=$(main_pid)
apt-get remove -y -q ds4d >/dev/null
if kill -0 "$old" 2>/dev/null; then fail "the agent still runs"; fi
[[ ! -e /run/ds4d ]] || fail "/run/ds4d is still there"
saw "left: $(find /etc/ds4d /var/lib/ds4d -type f | sort | tr '\n' ' ')"
[[ -e /var/lib/ds4d/route.json && -e /etc/ds4d/ds4d.toml ]] || fail "it was removed"
holds "remove: state and configuration stay, nothing runs"

step "and installing finds them again"
install "$package"
eventually 10 answers || fail "no answer"
equal "epoch" "$(figure epoch)" 2

step "purge leaves nothing"
apt-get purge -y -q libds4client1 python3-ds4 >/dev/null 2>&1 || true
rm /etc/ds4d/cluster.toml /etc/ds4d/ds4d.toml.d/memfd.toml # which this script made, not the package
apt-get purge -y -q ds4d >/dev/null
left=$(find / -xdev -path /proc -prune -o -path /boot-test -prune -o -path /root -prune \
  -o \( -name '*ds4*' -o -user ds4d -o -group ds4 \) -print 2>/dev/null || true)
saw "left: ${left:-nothing}"
[[ -z $left ]] || fail "files are left"
holds "purge: no file of ours is left"

printf '\nAll steps passed.\n'
