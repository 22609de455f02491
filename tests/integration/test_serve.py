"""The depot's web server: only nodes with a certificate of the site, only bundles, and nothing left behind."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import urllib3

from engine.errors import ResourceError
from installer.pki import Authority, Kind, utc_now
from installer.site import controlpki
from installer.site.serve import serving
from tests.bundles import PASSPHRASE, make


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the web server's user may pass."""
    with TemporaryDirectory() as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture
def passphrase(place: Path) -> Path:
    path = place / "passphrase"
    path.write_text(PASSPHRASE)
    path.chmod(0o600)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def status(url: str, ca: Path, place: Path, kind: Kind | None, passphrase: Path) -> int:
    """Status of a GET with a certificate of that kind, or none."""
    context = ssl.create_default_context(cafile=str(ca / "ca.crt"))
    if kind:
        key, certificate = Authority(ca).issue(
            kind=kind, name="n", names=["n"], passphrase=passphrase.read_text(), days=1, now=utc_now()
        )
        (place / "k").write_bytes(key)
        (place / "c").write_bytes(certificate)
        context.load_cert_chain(place / "c", place / "k")
    return urllib3.PoolManager(ssl_context=context).request("GET", url, retries=False).status


def test_nodes_get_bundles_and_nobody_else_gets_anything(place: Path, passphrase: Path) -> None:
    bundle = make(place / "bundles", {"files/a.txt": b"a"})
    (place / "secret").write_text("x")
    port = free_port()
    tls = controlpki.server_tls(place / "ca", passphrase, "127.0.0.1")
    with serving(bundle.path.parent, "127.0.0.1", port, tls) as url:

        def ask(path: str, kind: Kind | None) -> int:
            return status(f"{url}/{path}", place / "ca", place, kind, passphrase)

        assert ask("demo-1.0.0/metadata/timestamp.json", "node") == 200
        assert ask("demo-1.0.0/content/files/a.txt", "node") == 200
        assert ask("demo-1.0.0/content/files/a.txt", "client") == 403
        assert ask("demo-1.0.0/content/files/a.txt", None) == 400
        assert ask("demo-1.0.0/content/../../secret", "node") in (400, 404)
        assert ask("demo-1.0.0/README.txt", "node") == 404
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 2)


def test_a_node_fetches_over_ipv6(place: Path, passphrase: Path) -> None:
    """The same server and the node's own fetch, by the URL that the server gives."""
    bundle = make(place / "bundles", {"files/a.txt": b"a"})
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = int(server.getsockname()[1])
    tls = controlpki.server_tls(place / "ca", passphrase, "::1")
    key, certificate = Authority(place / "ca").issue(
        kind="node", name="n", names=["::1"], passphrase=passphrase.read_text(), days=1, now=utc_now()
    )
    for name, content in (("k", key), ("c", certificate), ("root.json", bundle.root)):
        (place / name).write_bytes(content)
    with serving(bundle.path.parent, "::1", port, tls) as url:
        assert url == f"https://[::1]:{port}"
        argv = [
            "fetch",
            "--url",
            f"{url}/demo-1.0.0",
            "--release",
            "demo-1.0.0",
            "--root",
            place / "root.json",
            "--minimum-version",
            "0",
        ]
        argv += [
            "--ca",
            place / "ca/ca.crt",
            "--cert",
            place / "c",
            "--key",
            place / "k",
            "--profile",
            "gpu",
            "--dry-run",
        ]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "engine.cli", *map(str, argv)], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "APPLIANCE_STATE": str(place / "state"), "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_taken_port_is_said_at_once(place: Path, passphrase: Path) -> None:
    tls = controlpki.server_tls(place / "ca", passphrase, "127.0.0.1")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ResourceError, match="Address already in use"),
        serving(place, "127.0.0.1", taken.getsockname()[1], tls),
    ):
        raise AssertionError("it was served")


def test_a_private_directory_is_said_before_any_node_sees_403(place: Path, passphrase: Path) -> None:
    (place / "private").mkdir(mode=0o700)
    (place / "private" / "bundles").mkdir()
    tls = controlpki.server_tls(place / "ca", passphrase, "127.0.0.1")
    with (
        pytest.raises(ResourceError, match="cannot read the bundles"),
        serving(place / "private" / "bundles", "127.0.0.1", free_port(), tls),
    ):
        raise AssertionError("it was served")
