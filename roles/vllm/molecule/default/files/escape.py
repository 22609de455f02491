"""Runs inside the unit's sandbox in place of the server and tries to leave it. Prints what succeeded; nothing should."""

import ctypes
import json
import os
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, PTRACE_ATTACH = 0x10000000, 16


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path):
    with open(path, "w") as out:
        out.write("x")


def reach(family, kind, address):
    with socket.socket(family, kind) as out:
        out.settimeout(3)
        out.connect(address)


def others():
    mine = {os.getpid(), os.getppid()}
    if seen := [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in mine]:
        return seen
    raise PermissionError("only itself in /proc")


ATTEMPTS = {
    "write /etc": lambda: write("/etc/escape"),
    "write /opt/appliance": lambda: write("/opt/appliance/escape"),
    "write /var/lib": lambda: write("/var/lib/escape"),
    "write its own socket's parent": lambda: write("/run/appliance-vllm/escape"),
    "write the cache of another service": lambda: write("/var/cache/appliance-vllm/tiny/escape"),
    "read configurations": lambda: os.listdir("/etc/appliance"),
    "read the keys of ssh": lambda: os.listdir("/etc/ssh"),
    "read homes": lambda: os.listdir("/root"),
    "see other processes": others,
    "attach to process 1": lambda: call(libc.ptrace(PTRACE_ATTACH, 1, None, None)),
    "mount": lambda: call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "make a user namespace": lambda: call(libc.unshare(CLONE_NEWUSER)),
    "become root": lambda: os.setuid(0),
    "open a raw frame socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "open a socket to the hypervisor": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "open a raw IP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "reach out over TCP": lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 443)),
    "reach the node's own SSH server": lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 22)),
    "reach out over UDP": lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
    "open the system bus": lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, "/run/dbus/system_bus_socket"),
    "set the clock": lambda: __import__("time").clock_settime(0, 0),
    "make a device": lambda: os.mknod("/tmp/zero", 0o20666, os.makedev(1, 5)),
    "make a setuid file": lambda: os.chmod(os.open("/tmp/s", os.O_CREAT | os.O_RDWR), 0o4755),
}

escaped = {}
for name, attempt in ATTEMPTS.items():
    try:
        escaped[name] = repr(attempt())
    except OSError:
        continue

# What the server needs must work, or the sandbox only looks tight.
for place in (*os.environ["CACHE_DIRECTORY"].split(":"), os.environ["RUNTIME_DIRECTORY"], "/tmp", "/dev/shm"):
    write(f"{place}/mine")
print(json.dumps({"escaped": escaped, "tried": len(ATTEMPTS)}), flush=True)
sys.exit(1 if escaped else 0)
