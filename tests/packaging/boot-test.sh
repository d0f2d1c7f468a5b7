#!/bin/bash
# usage: boot-test.sh PACKAGE.deb... SCRIPT
#
# Boots a real systemd as PID 1 of a fresh minimal Debian, runs SCRIPT there as root once the
# system is up, streams its output, powers the system off and exits with SCRIPT's status.
# Inside, the packages are /boot-test/packages/*.deb (not installed; their Depends are, but for
# those on one another), and the script is /boot-test/script. Files that are no .deb lie there, too.
# Other exit statuses: 124 time bound hit, 125 no system or no report.
#
# BOOT_METHOD    nspawn: a container, up in a second; needs debootstrap, systemd-container.
#                vm: qemu without KVM, up in about 15 s; needs debootstrap, e2fsprogs,
#                qemu-system-x86. Its own kernel enforces what a container may not be able to
#                (LimitMEMLOCK=infinity, MemoryMax=, TasksMax=, OOMScoreAdjust=-n ...).
# BOOT_CACHE     folder for the prepared systems (about 0.3 GB each, 0.8 GB for a vm)
# BOOT_TIMEOUT   seconds for boot, script and power-off together; preparing has 900 of its own
# BOOT_PACKAGES  more Debian packages to have inside, e.g. "curl gdb"
# BOOT_SUITE     Debian release inside        BOOT_MIRROR  Debian mirror, if not the default
# BOOT_NET       network options in the method's own words. nspawn, default --private-network:
#                --network-namespace-path=/run/netns/NAME; vm: -netdev ... -device virtio-net-pci,...
# BOOT_KEEP      nspawn: folder for what the run changes in the system. A later run with the same
#                folder goes on from there, like the machine after a reboot
# BOOT_SHARE     nspawn: folder that is /boot-test/share inside, for systems that run together
# BOOT_MEM       memory of a vm in MiB        BOOT_ACCEL   kvm where /dev/kvm really works
set -euo pipefail
method=${BOOT_METHOD:-nspawn} suite=${BOOT_SUITE:-bookworm} cache=${BOOT_CACHE:-/var/cache/ds4-boot}
die() { echo "boot-test: $*" >&2; exit 125; }
[ $# -ge 2 ] || die "usage: boot-test.sh PACKAGE.deb... SCRIPT"
for file in "$@"; do [ -f "$file" ] || die "there is no file $file"; done
[ "$(id -u)" = 0 ] || die "needs root"
case $method in nspawn) need=systemd-nspawn ;; vm) need=qemu-system-x86_64 ;; *) die "BOOT_METHOD?" ;; esac
for tool in debootstrap dpkg-deb unshare $need; do type -P $tool >/dev/null || die "needs $tool"; done
script=$(realpath "${!#}")
mapfile -t debs < <(realpath "${@:1:$#-1}")

# --- the prepared system: one for each release, method and set of dependencies ---------------
deps='' own=''
for deb in "${debs[@]}"; do
  [[ $deb == *.deb ]] || continue
  deps+=", $(dpkg-deb -W --showformat='${Pre-Depends}, ${Depends}' "$deb")"
  own+="|$(dpkg-deb -W --showformat='${Package}' "$deb")"
done
deps=$(tr ',' '\n' <<<"$deps" | sed -E 's/^ +| +$//g' | grep . | grep -vE "^(${own#|})( |:|\$)" | sort -u |
  paste -sd, | sed 's/,/, /g' || true)
deps+=${BOOT_PACKAGES:+${deps:+, }${BOOT_PACKAGES// /, }}
key=$suite-$method-$(sha256sum <<<"$deps $(sha256sum <"$0")" | cut -c1-12)
ready=$cache/$key

in_tree() { # TREE COMMAND...: runs it in the tree, with /proc, in a mount namespace of its own
  cp /etc/resolv.conf "$1/etc/resolv.conf"
  DEBIAN_FRONTEND=noninteractive unshare --mount --propagation private sh -ec \
    't=$1; shift; mount -t proc proc "$t/proc"; exec chroot "$t" "$@"' sh "$@"
}
prepare() {
  local base=$cache/$suite-base new=$ready.new tree=$ready.new/root
  if [ ! -d "$base" ]; then
    rm -rf "$base.new"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,libnss-systemd,iproute2,kmod \
      "$suite" "$base.new" ${BOOT_MIRROR:+"$BOOT_MIRROR"}
    mv "$base.new" "$base"
  fi
  rm -rf "$new"; mkdir "$new"; cp -a --reflink=auto "$base" "$tree"
  in_tree "$tree" apt-get update
  [ -z "$deps" ] || in_tree "$tree" apt-get satisfy -y --no-install-recommends "$deps"
  if [ $method = vm ]; then
    in_tree "$tree" apt-get install -y --no-install-recommends initramfs-tools busybox-static
    sed -i 's/^MODULES=.*/MODULES=list/' "$tree/etc/initramfs-tools/initramfs.conf"
    printf '%s\n' virtio_pci virtio_blk ext4 >>"$tree/etc/initramfs-tools/modules"
    in_tree "$tree" apt-get install -y --no-install-recommends linux-image-cloud-amd64
  fi
  in_tree "$tree" apt-get clean
  : >"$tree/etc/machine-id"; rm -f "$tree/etc/resolv.conf" "$tree/var/lib/dbus/machine-id"
  echo boot-test >"$tree/etc/hostname"; echo "127.0.0.1 localhost boot-test" >"$tree/etc/hosts"
  ln -sf /dev/null "$tree/etc/systemd/system/apt-daily.timer"
  ln -sf /dev/null "$tree/etc/systemd/system/apt-daily-upgrade.timer"
  mkdir -p "$tree/boot-test" "$tree/etc/systemd/system/multi-user.target.wants"
  cat >"$tree/usr/local/sbin/boot-test" <<'EOS'
#!/bin/bash
out=/boot-test/out in=/dev/disk/by-id/virtio-boot-test
if [ -e $in ]; then out=/dev/ttyS1; stty -F $out raw -echo; tar -C /boot-test -xf $in; fi
state=$(systemctl is-system-running --wait)
[ "$state" = running ] || { echo "boot-test: system is $state"; systemctl --failed --no-legend; } >>$out
cd /root; export HOME=/root LANG=C.UTF-8; : >/run/boot-test.log
bash /boot-test/script </dev/null >/run/boot-test.log 2>&1 & # to a file: no terminal, nothing to wait for
tail -n +1 -s 0.1 -f --pid=$! /run/boot-test.log >>$out; wait $!
printf '\n@boot-test-exit %d\n' $? >>$out
EOS
  chmod 755 "$tree/usr/local/sbin/boot-test"
  printf '%s\n' '[Unit]' 'After=multi-user.target' SuccessAction=poweroff FailureAction=poweroff \
    '[Service]' ExecStart=/usr/local/sbin/boot-test TimeoutStopSec=5 \
    >"$tree/etc/systemd/system/boot-test.service"
  ln -s ../boot-test.service "$tree/etc/systemd/system/multi-user.target.wants/"
  if [ $method = vm ]; then
    mv "$tree"/boot/vmlinuz-* "$new/vmlinuz"; mv "$tree"/boot/initrd.img-* "$new/initrd"
    truncate -s 8G "$new/disk.img"; mkfs.ext4 -q -F -d "$tree" "$new/disk.img"; rm -rf "$tree"
  fi
  mv "$new" "$ready"
}
mkdir -p "$cache"; exec 9>"$cache/lock"; flock -w 900 9 || die "cache is locked"
run=$(mktemp -d "$cache/run.XXXXXX") cg='' pid=''
if [ ! -d "$ready" ]; then
  export -f prepare in_tree; export method suite cache ready deps
  timeout -k 10 900 bash -euo pipefail -c prepare </dev/null >"$cache/prepare.log" 2>&1 9>&- ||
    { rm -rf "$run" "$ready.new"; tail -n 20 "$cache/prepare.log" >&2; die "cannot prepare the system"; }
fi
touch "$ready"; find "$cache" -mindepth 1 -maxdepth 1 -name '*-*-*' -mtime +30 -exec rm -rf {} +
exec 9>&-

# --- boot ------------------------------------------------------------------------------------
cleanup() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }
  if [ -n "$cg" ]; then
    echo 1 >"$cg/cgroup.kill"
    for _ in {1..100}; do grep -q 'populated 1' "$cg/cgroup.events" || break; sleep 0.1; done
    find "$cg" -depth -type d -exec rmdir {} + || true
  fi
  rm -rf "$run"
}
trap cleanup EXIT; trap 'exit 130' INT TERM HUP
mkdir "$run"/{root,packages}; cp "${debs[@]}" "$run/packages"; cp "$script" "$run/script"; : >"$run/out"
keep=${BOOT_KEEP:-$run}; mkdir -p "$keep/upper" "$keep/work"
if [ $method = nspawn ]; then
  args=(--boot --quiet --directory="$run/root" --machine="boot-test-$$" --register=no --keep-unit
    --link-journal=no --console=pipe --resolv-conf=off --timezone=off --private-users=no ${BOOT_NET:---private-network}
    --capability=CAP_IPC_LOCK,CAP_SYS_RESOURCE,CAP_BPF,CAP_PERFMON --bind="$run/out:/boot-test/out"
    --bind-ro="$run/packages:/boot-test/packages" --bind-ro="$run/script:/boot-test/script"
    ${BOOT_SHARE:+"--bind=$(realpath "$BOOT_SHARE"):/boot-test/share"})
  top=$(findmnt -nro TARGET -t cgroup2 | head -n 1) && [ -n "$top" ] || die "needs a cgroup2 mount"
  cg=$top/boot-test-$$; mkdir "$cg"
  grep -qw memory "$cg/cgroup.controllers" || echo "boot-test: no MemoryMax=, TasksMax=, CPUQuota= here" >&2
  ((0x$(sed -n 's/^CapBnd:\s*//p' /proc/self/status) >> 24 & 1)) || # CAP_SYS_RESOURCE
    echo "boot-test: limits cannot be raised here (LimitMEMLOCK=infinity stays $(ulimit -Hl) KiB)" >&2
  boot=(env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_SECCOMP=0 unshare --mount --propagation private
    bash -c 'set -e; cg=$1 low=$2 run=$3 keep=$4; shift 4; mkdir -p /run/systemd/nspawn
      mount -t tmpfs none /run/systemd/nspawn; echo $$ >"$cg/cgroup.procs"
      mount -t overlay -o "lowerdir=$low,upperdir=$keep/upper,workdir=$keep/work" none "$run/root" ||
        cp -a "$low/." "$run/root"
      exec systemd-nspawn "$@"' bash "$cg" "$ready/root" "$run" "$keep" "${args[@]}")
else
  tar -C "$run" -cf "$run/in.tar" packages script
  # no_timer_check: on a busy machine an emulated timer looks broken to the kernel, which then panics.
  boot=(env TMPDIR="$run" qemu-system-x86_64 -M q35 -accel "${BOOT_ACCEL:-tcg}" -cpu max -smp 2
    -m "${BOOT_MEM:-2048}" -nodefaults -display none -no-reboot -serial stdio -serial "file:$run/out"
    -kernel "$ready/vmlinuz" -initrd "$ready/initrd" -append "root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check"
    -drive "file=$ready/disk.img,if=none,id=root,format=raw,snapshot=on" -device virtio-blk-pci,drive=root
    -drive "file=$run/in.tar,if=none,id=in,format=raw,readonly=on"
    -device virtio-blk-pci,drive=in,serial=boot-test ${BOOT_NET:-})
fi
timeout -k 15 "${BOOT_TIMEOUT:-300}" "${boot[@]}" </dev/null >"$run/console" 2>&1 & pid=$!
tail -n +1 -s 0.2 -f --pid=$pid "$run/out" | sed -u -n -e "/^@boot-test-exit /{s///;w $run/status" -e 'd}' -e p & show=$!
ended=0; wait $pid || ended=$?
pid=''; wait $show || true
status=$(cat "$run/status" 2>/dev/null || true)
case $ended in 124 | 137) echo "boot-test: stopped after ${BOOT_TIMEOUT:-300} s" >&2; [ "${status:-0}" != 0 ] || status=124 ;; esac
[ -n "$status" ] || { tail -n 40 "$run/console" >&2; die "no report from the booted system"; }
exit "$status"
