"""Give this node another key and certificate, or other authorities to trust, while it serves.

The new key is made here and lies beside the one in use (next.key) until its certificate has come. Then the files change places,
nginx reads them anew, and a handshake shows that the edge serves what is on disk; whatever fails, the old files come back.
A run that was killed in between is healed by the next one: what it replaced lies in ``previous``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import durable
from engine.errors import ApplianceError, TrustError
from engine.process import run

PKI = Path("/etc/appliance/pki")
PYTHON = Path("/opt/appliance/current/engine/bin/python")
EDGE = "appliance-nginx.service"
WORKERS = "appliance-gateway@*.service"
WORKER_S = 240.0  # running answers end first, for a minute
SERVED_S = 15.0  # until new workers answer after a reload
FILES = ("node.key", "node.crt", "ca.crt", "crl.pem")


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """``question["step"]``: look, request or place; see the functions of these names.

    Raises:
        TrustError: what came does not fit together; nothing was changed.
        ApplianceError: the edge does not serve it; what was before is back.
    """
    step = question["step"]
    if step == "look":
        return look()
    _heal()
    return request(str(question["name"])) if step == "request" else place(question)


def look() -> dict[str, Any]:
    """The certificate, the authorities and the list in use: public files."""
    return {"files": {n: (PKI / n).read_text() for n in FILES[1:] if (PKI / n).is_file()}, "edge": _edge()}


def request(name: str) -> dict[str, Any]:
    """A request for the next key, which is made unless one waits here already."""
    argv: list[str | Path] = [PYTHON, "-m", "engine.cli", "keys", "csr", f"--key={PKI / 'next.key'}", f"--name={name}"]
    said = json.loads(run(argv, timeout_s=60).stdout)
    return {**look(), "csr": said["csr"], "made": said["changed"]}


def place(question: Mapping[str, Any]) -> dict[str, Any]:
    """Take over ``certificate`` (for the next key), ``ca`` and ``crl``, each where it is given.

    ``address`` and ``port`` say where the node's edge listens.
    """
    wanted = {
        "ca.crt": question.get("ca", ""),
        "crl.pem": question.get("crl", ""),
        "node.crt": question.get("certificate", ""),
    }
    wanted = {n: t for n, t in wanted.items() if t and t != _text(PKI / n)}
    if not wanted:
        return {"changed": [], "served": _served(question) if _edge() else ""}
    _fits(wanted)
    _set_aside()
    try:
        if "node.crt" in wanted:
            _like(PKI / "next.key", PKI / "node.key")
            os.replace(PKI / "next.key", PKI / "node.key")
        for name, text in wanted.items():
            durable.write(PKI / name, text, mode=0o644)
        durable.sync_dir(PKI)
        served = ""
        if _edge():
            # Its first step is nginx's own check of everything it would read; a refusal changes nothing that runs.
            run(["systemctl", "reload", EDGE], timeout_s=60)
            served = _wait(question)
        if "node.crt" in wanted:
            _restart_workers()
    except BaseException:
        _heal()
        if _edge():
            run(["systemctl", "reload", EDGE], ok=(0, 1), timeout_s=60)
        raise
    shutil.rmtree(PKI / "previous")
    return {"changed": sorted(wanted), "served": served}


def _fits(wanted: Mapping[str, str]) -> None:
    """The certificate belongs to the next key, and the authorities can be read.

    Raises:
        TrustError: not so.
    """
    trial = PKI / "next.crt"
    try:
        if "node.crt" in wanted:
            durable.write(trial, wanted["node.crt"], mode=0o644)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(trial, PKI / "next.key")
        if "ca.crt" in wanted:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=wanted["ca.crt"])
    except (ssl.SSLError, OSError) as error:
        raise TrustError(
            f"the new certificate cannot be used: {error}", where=str(PKI), remedy="Run the rotation again."
        ) from error
    finally:
        trial.unlink(missing_ok=True)


def _set_aside() -> None:
    """Keep what is replaced under names of its own, complete before the first file changes."""
    aside = PKI / ".previous"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    for name in FILES:
        if (PKI / name).is_file():
            os.link(PKI / name, aside / name)
    os.rename(aside, PKI / "previous")
    durable.sync_dir(PKI)


def _heal() -> None:
    """Put back what a run that did not end had replaced."""
    previous = PKI / "previous"
    if not previous.is_dir():
        return
    for name in FILES:
        if (previous / name).is_file():
            os.replace(previous / name, PKI / name)
    durable.sync_dir(PKI)
    shutil.rmtree(previous)


def _like(path: Path, model: Path) -> None:
    """Owner, group and mode of the key that is replaced: the edge's group must be able to read it, and nobody else."""
    said = model.stat()
    os.chown(path, said.st_uid, said.st_gid)
    path.chmod(stat.S_IMODE(said.st_mode) & 0o640)


def _edge() -> bool:
    return run(["systemctl", "is-active", "--quiet", EDGE], ok=(0, 1, 3, 4)).returncode == 0


def _restart_workers() -> None:
    """Workers of the gateway show the node's certificate to GPU nodes and take it in at their start; one after the other, so that the rest
    answers."""
    listed = run(["systemctl", "list-units", "--plain", "--no-legend", "--state=active", WORKERS], ok=(0, 1))
    for unit in sorted(line.split()[0] for line in listed.stdout.splitlines() if line.split()):
        run(["systemctl", "restart", unit], timeout_s=WORKER_S)


def _wait(question: Mapping[str, Any]) -> str:
    mine = hashlib.sha256(ssl.PEM_cert_to_DER_cert(_first(_text(PKI / "node.crt")))).hexdigest()
    deadline, served = time.monotonic() + SERVED_S, ""
    while time.monotonic() < deadline:
        served = _served(question)
        if served == mine:
            return served
        time.sleep(0.1)
    raise ApplianceError(
        "the edge does not serve the certificate that lies on disk",
        where=f"{question['address']}:{question['port']}",
        remedy="Look at it: journalctl -u appliance-nginx -n 50.",
    )


def _served(question: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate that the edge shows; empty while it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it is compared with a file, so nobody has to vouch for it
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((str(question["address"]), int(question["port"])), 3) as plain,
            context.wrap_socket(plain) as secure,
        ):
            return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


def _first(text: str) -> str:
    end = "-----END CERTIFICATE-----"
    return text[: text.index(end) + len(end)] + "\n"


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
