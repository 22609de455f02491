"""An apt repository as a vendor runs it, made from nothing and served on loopback."""

from __future__ import annotations

import hashlib
import http.server
import lzma
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from installer import openpgp

Key = tuple[Path, Path]  # secret key and passphrase file


def make_key(directory: Path, name: str) -> Key:
    """An apt signing key with its passphrase file."""
    directory.mkdir(parents=True)
    passphrase = directory / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("a passphrase for tests\n")
    return openpgp.create(directory, name, "a passphrase for tests"), passphrase


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


class Site:
    """A flat repository in ``root``, served at ``url``."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url

    def deb(self, name: str, version: str = "1.0", *, depends: str = "", arch: str = "amd64", more: str = "") -> Path:
        """Build a package with one file in it and put it into the pool; ``more`` are further lines of its control file."""
        tree = self.root.parent / "build" / f"{name}-{version.replace(':', '_')}-{arch}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share" / name).mkdir(parents=True)
        (tree / "usr/share" / name / "version").write_text(version)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: Test <test@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(control + more + "Description: made for a test\n")
        target = self.root / "pool" / f"{name}_{version.partition(':')[2] or version}_{arch}.deb"
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, target], check=True, capture_output=True)
        return target

    def publish(self, key: Key | None) -> None:
        """Write the index, signed when there is a key."""
        (self.root / "InRelease").unlink(missing_ok=True)
        (self.root / "Release").unlink(missing_ok=True)
        packages = self._ftparchive("packages", "pool")
        (self.root / "Packages").write_bytes(packages)
        release = self._ftparchive("release", ".")
        (self.root / "Release").write_bytes(release)
        if key:
            (self.root / "InRelease").write_bytes(openpgp.clearsign(*key, release, int(time.time())))

    def publish_suite(
        self, suite: str, packages: dict[str, set[tuple[str, str]]], key: Key, arch: str = "amd64"
    ) -> None:
        """Write `dists/SUITE` as Debian's and Ubuntu's archives have it: components, compressed indexes, by-hash.

        Args:
            packages: component to names and versions of packages in the pool.
        """
        top = self.root / "dists" / suite
        every = self._ftparchive("packages", "pool").decode().split("\n\n")
        for component, chosen in packages.items():
            index = top / component / f"binary-{arch}" / "Packages.xz"
            (index.parent / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
            ours = [s for s in every if any(f"Package: {n}\n" in s and f"\nVersion: {v}\n" in s for n, v in chosen)]
            text = "".join(s.strip("\n") + "\n\n" for s in ours).encode()
            (index.parent / "Packages").write_bytes(text)
            index.write_bytes(lzma.compress(text))
        options = {
            "Suite": suite,
            "Codename": suite.partition("-")[0],
            "Components": " ".join(packages),
            "Architectures": arch,
        }
        flags = [f"-oAPT::FTPArchive::Release::{k}={v}" for k, v in {**options, "Acquire-By-Hash": "yes"}.items()]
        release = self._ftparchive(*flags, "release", f"dists/{suite}")
        for index in [*top.rglob("Packages"), *top.rglob("Packages.xz")]:
            # Only under its hash, as a mirror in the middle of an update has it.
            index.rename(index.parent / "by-hash/SHA256" / hashlib.sha256(index.read_bytes()).hexdigest())
        (top / "InRelease").write_bytes(openpgp.clearsign(*key, release, int(time.time())))

    def _ftparchive(self, *args: str) -> bytes:
        return subprocess.run(["apt-ftparchive", *args], cwd=self.root, check=True, capture_output=True).stdout


@contextmanager
def serve(root: Path, address: str = "127.0.0.1") -> Iterator[Site]:
    """A site below ``root`` until the end of the block.

    Args:
        address: of loopback. Sites that one apt reads need different ones: apt gives an address up for all its ports.
    """
    root.mkdir(parents=True)
    server = http.server.ThreadingHTTPServer((address, 0), partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Site(root, f"http://{address}:{server.server_port}/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
