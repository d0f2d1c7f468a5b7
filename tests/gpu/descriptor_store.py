#!/usr/bin/env python3
"""Stands in for a service manager with a descriptor store, as systemd's is.

usage: descriptor_store.py COMMAND [ARGUMENT...]

Runs the command with NOTIFY_SOCKET, keeps the descriptors it sends (FDSTORE=1, FDNAME=, and
FDSTOREREMOVE=1), and starts it again with them (LISTEN_FDS) whenever a signal ends it, three times at
most. Ends when the command exits by itself.
"""
import array
import os
import select
import signal
import socket
import sys
import tempfile

FIRST_PASSED_FD = 3
MAX_FDS_IN_A_MESSAGE = 16


def receive(sock, store):
    data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(MAX_FDS_IN_A_MESSAGE * 4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    fields = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
    name = fields.get("FDNAME", "stored")
    if fields.get("FDSTOREREMOVE") == "1":
        for stored_name, fd in [entry for entry in store if entry[0] == name]:
            os.close(fd)
            store.remove((stored_name, fd))
    elif fields.get("FDSTORE") == "1":
        store.extend((name, fd) for fd in fds)
        return
    for fd in fds:
        os.close(fd)


def start(command, address, store):
    pid = os.fork()
    if pid != 0:
        return pid
    os.environ["NOTIFY_SOCKET"] = address
    # First out of the way of the numbers they will have, then onto them.
    moved = [os.dup2(fd, 500 + i) for i, (_, fd) in enumerate(store)]
    for i, fd in enumerate(moved):
        os.dup2(fd, FIRST_PASSED_FD + i)  # inheritable
        os.close(fd)
    if store:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(store))
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
    os.execvp(command[0], command)


def main():
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    address = os.path.join(tempfile.mkdtemp(), "notify")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    store = []
    for attempt in range(4):
        pid = start(command, address, store)
        print(f"store: started pid {pid} with {len(store)} descriptors", flush=True)
        status = None
        while status is None:
            while select.select([sock], [], [], 0.01)[0]:
                receive(sock, store)
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = code if ended == pid else None
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        name = signal.Signals(os.WTERMSIG(status)).name
        print(f"store: pid {pid} ended by {name}; holding {len(store)} descriptors", flush=True)


if __name__ == "__main__":
    main()
