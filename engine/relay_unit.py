"""The relay as a transient unit of systemd: a user of its own that exists while it runs, nothing to write, nobody to call."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import durable
from engine.process import run
from engine.relay import Offer

UNIT = "appliance-relay.service"
RUN = Path("/run/systemd/system")
LONGEST = "12h"  # whatever happens to the run that opened it
HAS = ("ca.crt", "node.crt", "node.key", "crl.pem")
PROPERTIES = (
    "DynamicUser=yes", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes",
    "PrivateTmp=yes", "PrivateDevices=yes", "ProtectProc=invisible", "ProcSubset=pid", "ProtectClock=yes",
    "ProtectControlGroups=yes", "ProtectHostname=yes", "ProtectKernelLogs=yes", "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "RestrictNamespaces=yes",
    "RestrictRealtime=yes", "RestrictSUIDSGID=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native", "SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM", "UMask=0077", "MemoryMax=256M", "TasksMax=192", "LimitCORE=0",
    "InaccessiblePaths=-/etc/appliance -/var/lib/appliance/trust -/root",
    f"RuntimeMaxSec={LONGEST}", "TimeoutStopSec=5s", "Nice=5",
)  # fmt: skip


class Unit:
    """Opens and closes the relay of this node.

    Args:
        listen: ADDRESS:PORT, both the node's own.
        peers: addresses that may ask.
        tls: directory with the node's certificate, which the unit gets as credentials.
    """

    def __init__(self, store: Path, listen: str, peers: Sequence[str], tls: Path) -> None:
        self._store = store
        self._listen = listen
        self._peers = peers
        self._tls = tls

    def open(self, offer: Offer) -> bool:
        """Start it with what may be asked for. False on a node without systemd, which then only takes.

        Raises:
            ApplianceError: it does not start.
        """
        if not RUN.is_dir() or shutil.which("systemd-run") is None:
            return False
        close()
        place = self._store / "relay.json"
        durable.write(place, offer.dump(), mode=0o644)
        credentials = [f"LoadCredential={n}:{self._tls / n}" for n in HAS if (self._tls / n).exists()]
        run([
            "systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--service-type=notify",
            "--description=appliance relay of content to neighbours",
            *(f"--property={p}" for p in (*PROPERTIES, *credentials)), "--",
            sys.executable, "-I", "-m", "engine.cli", "relay", f"--listen={self._listen}", f"--offer={place}",
            f"--blobs={self._store / 'blobs'}", f"--tls=/run/credentials/{UNIT}", *(f"--peer={p}" for p in self._peers),
        ])  # fmt: skip
        return True

    def close(self) -> bool:
        return close()


def close() -> bool:
    """End the relay if it runs; returns whether one did."""
    if not RUN.is_dir() or shutil.which("systemctl") is None:
        return False
    if run(["systemctl", "--quiet", "is-active", UNIT], ok=(0, 3, 4)).returncode:
        return False
    run(["systemctl", "stop", UNIT], ok=(0, 5))
    return True
