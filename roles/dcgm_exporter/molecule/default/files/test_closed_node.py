"""The metrics of a node behind the firewall of a site (the scenario tests/molecule/gpu_shut)."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from installer.pki import Authority, utc_now

NODE = json.loads(os.environ["NODE"])
SITE = Path(NODE["site"])


def on(script: str) -> None:
    subprocess.run([*NODE["ssh"], shlex.join(["bash", "-c", script])], check=True, timeout=60)


def test_prometheus_reaches_the_metrics_and_no_other_port_answers(tmp_path):
    key, certificate = Authority(SITE / "ca").issue(
        kind="node", name="mon-1", names=["mon-1.example.internal"],
        passphrase=(SITE / "passphrase").read_text().strip(), days=1, now=utc_now(),
    )  # fmt: skip
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "crt").write_bytes(certificate)
    on("systemd-run --quiet --collect --unit=knock-$RANDOM --property=RuntimeMaxSec=30 python3 -m http.server 9402")
    on("for n in $(seq 50); do ss -Hltn | grep -q :9402 && exit 0; sleep 0.1; done; exit 1")
    with pytest.raises(OSError):  # the firewall knows 9400 alone
        socket.create_connection((NODE["address"], 9402), 2).close()
    context = ssl.create_default_context(cafile=str(SITE / "ca/ca.crt"))
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    connection = http.client.HTTPSConnection(NODE["address"], 9400, context=context, timeout=10)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
