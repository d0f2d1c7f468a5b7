# One machine: another version of the package, up and down. The weights stay, and so do the sessions of clients.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

step "an agent with its weights in systemd's descriptor store, and two clients"
install "$package" "${packages[libds4client1]}" "${packages[python3-ds4]}" | tail -n 1
useradd -m -G ds4 alice
in_memfds
systemctl restart ds4d
answers || fail "no answer with weights in a memfd"
# As slow as a reader is, so that the answer is still on its way when the agent goes.
cat >/home/alice/stream.py <<'PYTHON'
import sys, time
import ds4

temperature, seed, pause_s = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with ds4.connect(reconnect=60) as agent:
    answer = agent.generate("Define ocean.", max_tokens=3000, temperature=temperature, seed=seed,
                            stop_at_eos=False, resume=True)
    for token in answer:
        print(token.id, token.encode(), flush=True)
        time.sleep(pause_s)
PYTHON
stream() { runuser -u alice -- python3 /home/alice/stream.py "$@"; }
stream 0 0 0 >/root/greedy.quiet
stream 0.8 7 0 >/root/sampled.quiet
saw "undisturbed: $(wc -l </root/greedy.quiet) and $(wc -l </root/sampled.quiet) tokens"
cmp -s /root/greedy.quiet /root/sampled.quiet && fail "the two answers should differ"

# streaming_over NAME COMMAND...: two clients are in the middle of their answers, and one new client after the other
# asks a question, while the command runs. Who comes while there is no agent is told so, and nothing else is.
streaming_over() {
  local name=$1 old began asker asked right absent clients=()
  shift
  old=$(main_pid)
  stream 0 0 0.004 >/root/greedy.now 2>/root/greedy.err & clients+=($!)
  stream 0.8 7 0.004 >/root/sampled.now 2>/root/sampled.err & clients+=($!)
  begun() { (($(wc -l </root/greedy.now) > 100 && $(wc -l </root/sampled.now) > 100)); }
  eventually 20 begun || fail "the clients do not stream: $(cat /root/*.err)"
  : >/root/asking
  while [[ -e /root/asking ]]; do
    said=$(runuser -u alice -- ds4ctl run --wait 60 "$question" 2>&1) || true
    printf '%s\n' "$said"
  done >/root/asked &
  asker=$!
  began=$(now_ms)
  "$@"
  [[ $(main_pid) != "$old" ]] || fail "it was not restarted"
  saw "$name: version $(dpkg-query -W -f '${Version}' ds4d), process $old -> $(main_pid), $(($(now_ms) - began)) ms"
  saw "tokens when it was done: $(wc -l </root/greedy.now) and $(wc -l </root/sampled.now)"
  for client in "${clients[@]}"; do kill -0 "$client" 2>/dev/null || fail "a client ended before the restart: nothing is seen"; done
  wait "${clients[0]}" || fail "the first client: $(cat /root/greedy.err)"
  wait "${clients[1]}" || fail "the second client: $(cat /root/sampled.err)"
  rm /root/asking
  wait $asker || true
  for client in greedy sampled; do
    cmp "/root/$client.quiet" "/root/$client.now" || fail "the $client answer is another one"
  done
  saw "both answers are those of the undisturbed agent, token for token"
  asked=$(wc -l </root/asked) right=$(grep -cFx "$answer" /root/asked) absent=$(grep -c 'no agent is serving' /root/asked || true)
  ((right > 0 && right + absent == asked)) ||
    fail "of $asked new clients $right were answered; others got: $(grep -vFx "$answer" /root/asked | sort | uniq -c | head -n 5)"
  saw "of $asked new clients meanwhile $right were answered, $absent were told that there is no agent now"
}

step "installing the same version again restarts nothing, though the model's file is another one now"
old=$(main_pid)
before=$(stat -c '%i' /usr/share/ds4d/tiny-v4-q4.gguf)
install --reinstall "$package" | tail -n 1
equal "process" "$(main_pid)" "$old"
[[ $(stat -c '%i' /usr/share/ds4d/tiny-v4-q4.gguf) != "$before" ]] || fail "the model's file was not replaced"
eventually 10 bash -c 'journalctl --no-pager -u ds4d -o cat | grep "was replaced"' || fail "nobody noticed the new file"
saw "$(journal | grep -m 1 'was replaced')"
documented "the model file ... was replaced; ..."
printf '[nodes]\n%s = "tcp://127.0.0.1:7341"\n' "$(hostname)" >/etc/ds4d/cluster.toml
ds4ctl assign "$(hostname)=0:output" | tail -n 1
equal "bytes kept by the assignment" "$(figure kept_bytes)" "$(figure cover_bytes)"
equal "descriptors in the store" "$(property NFileDescriptorStore)" 7

step "upgrade"
echo '# mine' >>/etc/ds4d/ds4d.toml
upgrade=$(repacked 99.0-1)
streaming_over upgrade install "$upgrade"
from_the_store
holds "upgrade to a higher version: the weights stay in memory"
holds "upgrade: the sessions of connected clients resume, their answers are those of an undisturbed agent"
equal "settings" "$(tail -n 1 /etc/ds4d/ds4d.toml)" "# mine"
equal "epoch" "$(figure epoch)" 2

step "downgrade"
streaming_over downgrade install "$package"
from_the_store
holds "downgrade: weights and sessions as well"

step "an agent that its administrator stopped stays stopped"
systemctl stop ds4d
equal "descriptors in the store after the stop" "$(property NFileDescriptorStore)" 0
install "$(repacked 99.1-1)" | tail -n 1
equal "state" "$(systemctl is-active ds4d || true)" inactive
systemctl start ds4d
answers || fail "no answer after stop and start"
saw "after stop and start: $(journal "_PID=$(main_pid)" | grep resident | tail -n 1)"
printf '\nAll steps passed.\n'
