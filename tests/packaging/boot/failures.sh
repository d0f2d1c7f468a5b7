# What goes wrong on one machine, provoked: the journal has the sentence that ds4d(8) has under DIAGNOSTICS, and
# with the cause gone the service is back.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

settings=/etc/ds4d/ds4d.toml.d/test.toml

begin() { cursor=$(journalctl --no-pager -u ds4d -n 0 --show-cursor | sed -n 's/^-- cursor: //p'); }
since() { journal --after-cursor="$cursor" | grep -- "$1"; } # TEXT
# restarted_with LINE...: the service, asked to restart with these settings.
restarted_with() {
  printf '%s\n' "$@" >"$settings"
  begin
  systemctl restart ds4d --no-block
}
# told TEXT: the journal has it since, with ... for anything; and so has the manual, word for word.
told() {
  local pattern
  pattern=$(sed 's/[][\\.*^$]/\\&/g; s/\\\.\\\.\\\./.*/g' <<<"$1")
  eventually 30 since "$pattern" || fail "the journal does not say: $1"
  saw "$(since "$pattern" | tail -n 1)"
  documented "$1"
}
recovers() {
  rm -f "$settings"
  systemctl reset-failed ds4d 2>/dev/null || true
  systemctl restart ds4d
  answers || fail "with the cause gone there is no answer"
}

install "$package" | tail -n 1
useradd -m -G ds4 alice

step "configuration"
restarted_with 'nonsense = 1'
told "... is not a key that ds4d knows"
sed -i.saved 's/^model/#model/' /etc/ds4d/ds4d.toml
restarted_with ''
told "no model is set"
mv /etc/ds4d/ds4d.toml.saved /etc/ds4d/ds4d.toml
restarted_with '[log]' 'level = "info"'
eventually 20 answers || fail "no answer"
chmod 600 "$settings"
begin
systemctl restart ds4d --no-block
told "read the configuration ...: not readable"
recovers

step "the model's file"
restarted_with 'model = "/srv/there-is-none.gguf"'
told "...: No such file or directory"
cp /usr/share/ds4d/tiny-v4-q4.gguf /srv/closed.gguf
chmod 600 /srv/closed.gguf
restarted_with 'model = "/srv/closed.gguf"'
told "...: Permission denied"
head -c 5000000 /usr/share/ds4d/tiny-v4-q4.gguf >/srv/short.gguf
restarted_with 'model = "/srv/short.gguf"'
told "...: the file is truncated: ..."
recovers
cp /usr/share/ds4d/tiny-v4-q4.gguf /srv/model.gguf
restarted_with 'model = "/srv/model.gguf"'
eventually 20 answers || fail "no answer"
begin
truncate -s 5000000 /srv/model.gguf
ask_as alice >/dev/null 2>&1 || true
told "layers are lost: ..."
saw "systemctl: $(property ActiveState), $(property StatusText)"
recovers

step "the address"
mkdir /run/other && chown ds4d:ds4 /run/other
runuser -u ds4d -- ds4d --name other --state-dir /run/other --socket /run/other/socket --listen tcp://127.0.0.1:7399 >/run/other/log 2>&1 &
other=$!
eventually 20 grep -q ready /run/other/log || fail "$(cat /run/other/log)"
restarted_with 'listen.address = "tcp://127.0.0.1:7399"'
told "listen on tcp://...: another program (another ds4d?) listens there already"
kill $other
wait $other || true
restarted_with 'listen.address = "tcp://10.98.97.96:7341"'
told "listen on tcp://...: no interface of this machine has that address"
recovers
restarted_with 'insecure = true'
told "INSECURE: the configuration says insecure = true"
recovers

step "a second agent"
if said=$(runuser -u ds4d -- ds4d --listen tcp://127.0.0.1:7398 --socket /run/other/socket 2>&1); then fail "a second agent started"; fi
[[ $said == *"another ds4d uses the state directory"* ]] || fail "it said: $said"
documented "another ds4d uses the state directory"
saw "$(tail -n 1 <<<"$said")"
rm -r /run/other

step "memory"
restarted_with '[memory]' 'budget = "20MiB"'
told "layers ... need ..., but this node can give ..."
recovers
if [[ $(ulimit -Hl) != unlimited ]]; then # else there is nothing to run into
  begin
  systemctl restart ds4d
  told "... not locked, so they may be evicted: ..."
fi

step "another name than the one that the layers were assigned to"
printf '[nodes]\n%s = "tcp://127.0.0.1:7341"\n' "$(hostname)" >/etc/ds4d/cluster.toml
ds4ctl assign "$(hostname)=0:output" | tail -n 1
restarted_with 'name = "other"'
told "failed: restore epoch ..."
recovers

step "too many starts"
mkdir -p /run/systemd/system/ds4d.service.d
printf '[Unit]\nStartLimitBurst=3\n' >/run/systemd/system/ds4d.service.d/test.conf
systemctl daemon-reload
restarted_with 'model = "/srv/there-is-none.gguf"'
told "Start request repeated too quickly"
rm /run/systemd/system/ds4d.service.d/test.conf
systemctl daemon-reload
recovers
holds "what a failure looks like in the journal is what ds4d(8) says, and with its cause gone the service is back"
printf '\nAll steps passed.\n'
