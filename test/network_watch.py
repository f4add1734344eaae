"""Runs a command and writes down every attempt of it to reach something outside this machine.

    python network_watch.py LOG COMMAND ...

Where the system allows it the command gets a network of its own, in which everything that is sent
anywhere comes by the loopback device and is looked at there, whatever library sends it. Python
processes, children too, are also watched by an audit hook, which sees names that are looked up.
The first line of LOG says whether there was a network of its own; each further line is an attempt.
DDS on loopback and to multicast groups is no attempt.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
import socket
import struct
import subprocess
import sys
import tempfile
import threading

OWN, SHARED = 'a network of its own', 'audit hook only'
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of sched.h
SET_FLAGS, ADD_ROUTE = 0x8914, 0x890B  # of sockios.h
ALL_PROTOCOLS, TCP, UDP, DNS = 3, 6, 17, 53
HOOK = """
import os, sys

def watch(event, arguments, log=os.environ['NETWORK_WATCH_LOG']):
    if event in ('socket.connect', 'socket.sendto', 'socket.sendmsg'):
        address = arguments[1]
        if not isinstance(address, tuple):
            return
        host = address[0]
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host or '')
    if host not in ('', 'localhost', '::1', os.uname().nodename) and host[:4] != '127.':
        with open(log, 'a') as file:
            file.write(f'{event} {host}\\n')

sys.addaudithook(watch)
"""


def run(command: list[str], log: Path, **options) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run a command under watch: what it did, and its attempts."""
    watched = [sys.executable, __file__, str(log), *command]
    done = subprocess.run(
        watched, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    return done, log.read_text(encoding='utf-8').splitlines()[1:]


def enter_own_network() -> bool:
    """Leave the network of the machine for one with a loopback device that leads everywhere."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_NETWORK):
        return False
    try:
        Path('/proc/self/setgroups').write_text('deny')
        Path('/proc/self/uid_map').write_text(f'{user} {user} 1')
        Path('/proc/self/gid_map').write_text(f'{group} {group} 1')
        open_loopback()
    except OSError as error:
        raise SystemExit(f'the network of its own cannot be set up: {error}') from error
    return True


def open_loopback() -> None:
    """Switch the loopback device on, with the route to everywhere (see rtentry in route.h)."""
    device = ctypes.create_string_buffer(b'lo')
    anywhere = struct.pack('=HH4s8x', socket.AF_INET, 0, bytes(4))
    route = struct.pack(
        '@L16s16s16sHh4xLPh6xPLLH',
        *(0, anywhere, anywhere, anywhere, 1, 0, 0, 0, 0, ctypes.addressof(device), 0, 0, 0),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        up_and_running = struct.pack('16sH14s', b'lo', 0x41 | 0x8, b'')
        fcntl.ioctl(control, SET_FLAGS, up_and_running)
        fcntl.ioctl(control, ADD_ROUTE, route)


def listen(packets: socket.socket, log: Path) -> None:
    """Write down what is not for this machine: IPv4 beyond 127/8, and questions for names."""
    seen = set()
    while True:
        packet, (_, protocol, *_) = packets.recvfrom(65535)
        if protocol != 0x0800 or len(packet) < 20:
            continue
        attempt = attempted(packet)
        if attempt and attempt not in seen:
            seen.add(attempt)
            with log.open('a', encoding='utf-8') as file:
                file.write(f'{attempt}\n')


def attempted(packet: bytes) -> str:
    """What an IPv4 packet tries to reach outside this machine; empty where nothing.

    Only TCP and UDP have ports: the same bytes of an ICMP message are its checksum.
    """
    target, header, port = socket.inet_ntoa(packet[16:20]), 4 * (packet[0] & 0xF), 0
    if packet[9] in (TCP, UDP) and len(packet) >= header + 4:
        (port,) = struct.unpack('!H', packet[header + 2 : header + 4])
    is_local = target.startswith('127.') or 224 <= packet[16] < 240
    return '' if is_local and port != DNS else f'sent to {target}:{port}'


def main() -> int:
    """Watch one command; returns its exit code."""
    log, command = Path(sys.argv[1]).resolve(), sys.argv[2:]
    own = enter_own_network()
    log.write_text(f'{OWN if own else SHARED}\n', encoding='utf-8')
    if own:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
        threading.Thread(target=listen, args=(packets, log), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'sitecustomize.py').write_text(HOOK, encoding='utf-8')
        path = os.pathsep.join([folder, *filter(None, [os.environ.get('PYTHONPATH')])])
        environment = {**os.environ, 'PYTHONPATH': path, 'NETWORK_WATCH_LOG': str(log)}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == '__main__':
    raise SystemExit(main())
