#!/usr/bin/env python3
"""A network between network namespaces that delays, loses and cuts: what `tc netem` does, for kernels that
have no sch_netem.

usage: net_relay.py --seed N NAME=NAMESPACE=ADDRESS...

Every namespace gets a TUN device `eth0`; the kernels' own TCP runs over it, and this program carries its packets
from one to the other. Orders come on standard input, one a line:

  delay MS      of every packet, from now on
  loss PERCENT  of all packets, drawn at random
  cut NAME      nothing passes from or to it, until
  heal NAME
  figures       prints "PACKETS LOST CUT", counted since the last time

It ends with standard input. Needs root.
"""

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
CLONE_NEWNET = 0x40000000
MOST_BYTES = 65536


def enter(namespace):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(namespace, "rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"enter {namespace}")


def make_device(namespace):
    """Made in that namespace, which it stays in; the descriptor is good here."""
    enter(f"/run/netns/{namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN_NO_PI))
    return device


class Relay:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.delay = 0.0
        self.loss = 0.0
        self.cut = set()
        self.device_of = {}  # by address
        self.name_of = {}  # by address
        self.waiting = []  # (due, number, device, packet)
        self.number = 0
        self.figures = [0, 0, 0]

    def add(self, name, address, device):
        packed = socket.inet_aton(address)
        self.device_of[packed] = device
        self.name_of[packed] = name

    def take(self, packet):
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return  # IPv6's own housekeeping
        source, target = packet[12:16], packet[16:20]
        if target not in self.device_of:
            return
        self.figures[0] += 1
        if self.name_of.get(source) in self.cut or self.name_of[target] in self.cut:
            self.figures[2] += 1
        elif self.random.random() * 100 < self.loss:
            self.figures[1] += 1
        else:
            self.number += 1
            due = time.monotonic() + self.delay
            heapq.heappush(self.waiting, (due, self.number, self.device_of[target], packet))

    def give(self):
        """What is due; the seconds until the next is, or None."""
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(self.waiting)
            try:
                os.write(device, packet)
            except (BlockingIOError, OSError):
                self.figures[1] += 1  # the device is down or its queue is full: lost, as on a wire
        return self.waiting[0][0] - now if self.waiting else None

    def obey(self, words):
        match words:
            case ["delay", milliseconds]:
                self.delay = float(milliseconds) / 1000
            case ["loss", percent]:
                self.loss = float(percent)
            case ["cut", name]:
                self.cut.add(name)
            case ["heal", name]:
                self.cut.discard(name)
            case ["figures"]:
                print(*self.figures, flush=True)
                self.figures = [0, 0, 0]
            case _:
                sys.exit(f"net_relay.py: no such order: {' '.join(words)}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("nodes", nargs="+")
    options = parser.parse_args()
    relay = Relay(options.seed)
    selector = selectors.DefaultSelector()
    for node in options.nodes:
        name, namespace, address = node.split("=")
        device = make_device(namespace)
        relay.add(name, address, device)
        selector.register(device, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    os.set_blocking(sys.stdin.fileno(), False)
    print("ready", flush=True)
    orders = b""
    while True:
        for key, _ in selector.select(relay.give()):
            if key.fd != sys.stdin.fileno():
                try:
                    while True:
                        relay.take(os.read(key.fd, MOST_BYTES))
                except BlockingIOError:
                    continue
            came = os.read(key.fd, 4096)
            if not came:
                return
            *lines, orders = (orders + came).split(b"\n")
            for line in lines:
                relay.obey(line.decode().split())


if __name__ == "__main__":
    main()
