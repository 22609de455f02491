"""Images from a bundle's layout run on a node that has podman, no registry and no network."""

from __future__ import annotations

import io
import json
import os
import secrets
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.process import run
from installer import lockfile
from installer.definition import Definition
from installer.kinds import Work, debs, images
from installer.lab.lab import Lab, down, up
from installer.lockfile import Artifact
from tests.integration.registry import Layout

pytestmark = pytest.mark.nodes
TREE = Path(__file__).resolve().parents[2]
# A lab node may not write to control groups nor make kernel keyrings; a real machine needs none of these options.
PODMAN_RUN = (
    "podman --runtime crun run --rm --pull=never --network=none --cgroups=disabled "
    "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
)


@dataclass
class Site:
    lab: Lab
    content: Path
    locked: tuple[Artifact, ...]

    def on(self, script: str, *, ok: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        command = shlex.join(["bash", "-c", script])
        return run([*self.lab.ssh(self.lab.nodes[0].address), command], ok=ok, timeout_s=600)

    def artifact(self, name: str) -> Artifact:
        return next(a for a in self.locked if a.name == name)

    def load(self, *, layout: str = "/srv/content/images", tag: str = "1.0", ok: tuple[int, ...] = (0,)) -> str:
        pinned = f"web@sha256:{self.artifact('web').sha256}"
        done = self.on(
            f"cd /srv/tree && python3 -m engine.cli images load --layout {layout} --tag {tag} {pinned}", ok=ok
        )
        return done.stdout or done.stderr


def fetch_debs(work: Work, to: Path) -> dict[str, Path]:
    """The packages' whole closure as files, by name."""
    artifacts = [a for a in debs.resolve(work) if a.path.endswith(".deb")]  # not the vendor's evidence beside them
    debs.fetch(work, artifacts)
    for artifact in artifacts:
        work.cache.link(artifact.sha256, to / Path(artifact.path).name)
    return {a.name: to / Path(a.path).name for a in artifacts}


def busybox_layer(deb: Path, scratch: Path) -> bytes:
    """A layer with one static program."""
    run(["dpkg-deb", "--extract", deb, scratch])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("bin/busybox")
        data = (scratch / "bin/busybox").read_bytes()
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node with Debian's podman, and a built layout bound into it read-only."""
    base = tmp_path_factory.mktemp("images")
    definition = {
        "schema": 1, "name": "try", "version": "1.0", "target": {"os": "debian-12", "python": "3.11"},
        "debs": {"groups": [{"packages": ["podman", "crun", "skopeo", "busybox-static"], "profiles": ["gpu"]}]},
        "images": [{"name": "web", "source": "oci:layout:web", "profiles": ["gpu"]}],
    }  # fmt: skip
    work = Work(Definition.model_validate(definition), base, Blobs(base / "cache"))
    packages = fetch_debs(work, base / "debs")
    Layout(base / "layout").image("web", [busybox_layer(packages["busybox-static"], base / "busybox"), "hello"])
    locked = lockfile.make(work.definition, images.resolve(work)).artifacts
    images.fetch(work, locked)
    images.check(work, locked)
    images.lay_out(work, locked, base / "content")
    binds = [f"{TREE}:/srv/tree", f"{base / 'debs'}:/srv/debs", f"{base / 'content'}:/srv/content"]
    lab = up(f"test-{secrets.token_hex(3)}", bind_ro=binds, owner_pid=os.getpid())
    try:
        made = Site(lab, base / "content", locked)
        here = set(made.on("dpkg-query -W -f '${Package}\\n'").stdout.split())
        wanted = " ".join(f"/srv/debs/{p.name}" for n, p in sorted(packages.items()) if n not in here)
        made.on(f"DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {wanted}")
        # A container has no right to make overlayfs' whiteouts; on a real machine the default driver is used.
        storage = '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
        made.on(f"cat > /etc/containers/storage.conf <<'END'\n{storage}END\n")
        made.on("printf '[containers]\\nkeyring = false\\n' > /etc/containers/containers.conf")
        yield made
    finally:
        down(lab.name)


def test_an_image_of_the_bundle_runs_with_the_locked_digest_and_id(site: Site) -> None:
    told = json.loads(site.load())
    manifest, config = site.artifact("web").sha256, site.artifact("web config").sha256
    assert told["changed"] is True
    assert told["images"] == [
        {"reference": "localhost/web:1.0", "digest": f"sha256:{manifest}", "id": config, "changed": True}
    ]
    [image] = json.loads(site.on("podman image inspect localhost/web:1.0").stdout)
    assert (image["Digest"], image["Id"]) == (f"sha256:{manifest}", config)
    assert site.on(f"{PODMAN_RUN} localhost/web:1.0 /bin/busybox cat /hello").stdout == "hello"
    assert json.loads(site.load())["changed"] is False


@pytest.mark.parametrize("victim", ["web", "web config", "web layer 1 of 2", "web layer 2 of 2"])
def test_a_layout_with_other_bytes_is_refused_and_nothing_is_loaded(site: Site, victim: str) -> None:
    blob = f"/root/copy/blobs/sha256/{site.artifact(victim).sha256}"
    site.on("podman rmi --all --force; rm -rf /root/copy; cp -r /srv/content/images /root/copy")
    site.on(f"printf X | dd of={blob} bs=1 seek=40 conv=notrunc status=none")
    error = json.loads(site.load(layout="/root/copy", tag="bad", ok=(3,)))["error"]
    assert error["remedy"]
    assert site.on("podman image exists localhost/web:bad", ok=(1,)).returncode == 1
    site.on(f"rm {blob}")
    site.load(layout="/root/copy", tag="bad", ok=(3,))
    assert site.on("ls -A /var/lib/appliance").stdout == ""


def test_a_layer_exchanged_for_a_sound_one_is_refused_and_named(site: Site) -> None:
    layer = site.artifact("web layer 2 of 2").sha256
    site.on("podman rmi --all --force; rm -rf /root/copy; cp -r /srv/content/images /root/copy")
    site.on(f"tar -cz -C /etc hostname > /root/copy/blobs/sha256/{layer}")
    error = json.loads(site.load(layout="/root/copy", tag="bad", ok=(3,)))["error"]
    assert "a layer is missing or has other bytes" in error["what"]
    assert error["where"] == f"/root/copy/blobs/sha256/{layer}"
    assert site.on("podman image exists localhost/web:bad", ok=(1,)).returncode == 1


def test_without_the_image_podman_has_nowhere_to_ask(site: Site) -> None:
    assert site.on(f"{PODMAN_RUN} localhost/absent:1.0 true", ok=(125,)).returncode == 125
