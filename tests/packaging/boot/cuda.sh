# The package with the engine for GPUs, on a machine that has none: it serves, and says what it computes on.
# (A GPU cannot be lent to these systems; tests/gpu has what needs one.)
# shellcheck shell=bash disable=SC2154

step "ds4d-cuda beside ds4d"
install "$package" "${packages[ds4d-cuda]}" | tail -n 2
useradd -m -G ds4 alice
eventually 20 answers || fail "no answer"
equal "alice gets" "$(ask_as alice)" "$answer"
reason=$(journal "_PID=$(main_pid)" | grep 'computing on the CPU' | tail -n 1) || fail "it does not say what it computes on"
saw "$reason"
documented "computing on the CPU: ..."
holds "ds4d-cuda without a GPU: the agent serves on the CPU and says why"

step "the drop-in is in force"
saw "$(property DropInPaths)"
[[ $(property DropInPaths) == *cuda.conf* ]] || fail "the drop-in is not read"
equal "DevicePolicy" "$(property DevicePolicy)" closed
equal "PrivateDevices" "$(property PrivateDevices)" no
devices=$(systemctl show -p DeviceAllow ds4d | tr '\n' ' ')
[[ $devices == *nvidiactl* && $devices == *nvidia-uvm* ]] || fail "the devices are not allowed: $devices"
saw "$devices"
saw "$(systemd-analyze --no-pager security --threshold=30 ds4d | tail -n 1)"

step "where a GPU is asked for, its absence is a failure in one sentence"
printf '[engine]\ndevice = "cuda"\n' >/etc/ds4d/ds4d.toml.d/test.toml
systemctl restart ds4d --no-block
told() { [[ -n $(journal --since -20s | grep -iE 'cuda|gpu' | tail -n 1) && $(ds4ctl status 2>&1) == *failed* ]]; }
eventually 20 told || fail "nothing is said: $(ds4ctl status 2>&1 | tail -n 1)"
saw "$(ds4ctl status 2>&1 | tail -n 1)"
[[ $(property StatusText) == *"there is no NVIDIA driver here, or it is older than CUDA 13"* ]] || fail "it says $(property StatusText)"
documented "there is no NVIDIA driver here, or it is older than CUDA 13"
saw "systemctl: $(property ActiveState) ($(property StatusText))"
rm /etc/ds4d/ds4d.toml.d/test.toml
systemctl restart ds4d
answers || fail "no answer"

step "installed again, nothing is restarted twice; removed, the agent stays up"
old=$(main_pid)
sleep 1.1 # the agent's start and the files' change are told apart by the second
install --reinstall "${packages[ds4d-cuda]}" | tail -n 1
[[ $(main_pid) != "$old" ]] || fail "a new library needs a restart"
answers || fail "no answer"
old=$(main_pid)
apt-get purge -y -q ds4d-cuda >/dev/null
equal "process" "$(main_pid)" "$old"
[[ ! -e /etc/ds4d/ds4d.toml.d/10-cuda.toml && ! -e /usr/lib/ds4d/libds4engine-cuda.so ]] || fail "files are left"
systemctl restart ds4d
equal "without ds4d-cuda alice gets" "$(ask_as alice)" "$answer"
printf '\nAll steps passed.\n'
