"""What is inside container images: packages by their databases, licences by label and text, from layers that stream by."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import TrustError
from installer import tarstream, unpack
from installer.definition import Definition
from installer.evidence import imagefiles, writing
from installer.evidence.imagefiles import Budget, Package
from installer.kinds import Work, imagelist, oci
from installer.lockfile import Artifact, Lock

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Description: first line
 Version: 9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
DEP5 = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: LGPL-2.1+\n text\n\nFiles: b\nLicense: MIT\n"
APK = b"C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\n\nP:busybox\nV:1.36\nA:x86_64\nL:GPL-2.0-only\n"
METADATA = (
    b"Metadata-Version: 2.4\nName: vllm\nVersion: 0.32.0\nLicense-Expression: Apache-2.0\n\nlong text\nVersion: 9\n"
)
OS = b'NAME="Debian"\nID=debian\nVERSION_ID="12"\n'
FIRST = {
    "var/lib/dpkg/status": STATUS, "usr/share/doc/libc6/copyright": DEP5, "etc/os-release": OS, "usr/bin/true": b"code",
    "usr/lib/python3/dist-packages/vllm-0.32.0.dist-info/METADATA": METADATA, "NGC-DL-CONTAINER-LICENSE": b"NVIDIA's terms",
}  # fmt: skip


def tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def looked(files: dict[str, bytes], budget: Budget | None = None) -> imagefiles.Layer:
    return imagefiles.look(tarstream.Reader(io.BytesIO(tar(files)), "layer"), budget or Budget())


class Site:
    """A cache with images in it, and their lock."""

    def __init__(self, place: Path) -> None:
        self.cache = Blobs(place / "cache")
        self.artifacts: list[Artifact] = []
        self.names: list[str] = []

    def put(self, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        with self.cache.incoming(sha256, len(data)) as incoming:
            if not incoming.complete:
                incoming.write(data)
        return {"digest": f"sha256:{sha256}", "size": len(data)}

    def image(self, name: str, layers: list[bytes], labels: dict[str, Any] | None = None) -> None:
        config = {"os": "linux", "architecture": "amd64", "config": {"Labels": labels}}
        manifest = {
            "mediaType": oci.OCI_MANIFEST, "layers": [{**self.put(one), "mediaType": oci.OCI_LAYER} for one in layers],
            "config": {**self.put(json.dumps(config).encode()), "mediaType": oci.OCI_CONFIG},
        }  # fmt: skip
        raw = json.dumps(manifest).encode()
        self.put(raw)
        self.names.append(name)
        self.artifacts += imagelist.artifacts(self.definition().images[-1], "docker://r.test/a@sha256:1", name, raw)

    def definition(self) -> Definition:
        images = [{"name": n, "source": "docker://r.test/a", "profiles": ["gpu"]} for n in self.names]
        target = {"os": "debian-12", "python": "3.11", "arch": "x86_64"}
        return Definition.model_validate(
            {"schema": 1, "name": "t", "version": "1.0", "target": target, "images": images}
        )

    @property
    def lock(self) -> Lock:
        return Lock(
            schema_version=1, name="t", version="1.0", definition_sha256="ab" * 32, artifacts=tuple(self.artifacts)
        )

    def work(self, place: Path) -> Work:
        return Work(self.definition(), place, self.cache)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_packages_of_an_image_come_from_the_databases_it_carries() -> None:
    found = imagefiles.combine([looked(FIRST), looked({"lib/apk/db/installed": APK})])
    assert found.packages == (
        Package("apk", "busybox", "1.36", "x86_64", "GPL-2.0-only"),
        Package("apk", "musl", "1.2.5-r0", "x86_64", "MIT"),
        Package("deb", "libc6", "2.36-9", "amd64", "LGPL-2.1+ AND MIT"),
        Package("pypi", "vllm", "0.32.0", "", "Apache-2.0"),
    )
    assert found.distribution == "debian-12"
    assert [t.name for t in found.texts] == ["NGC-DL-CONTAINER-LICENSE", "usr/share/doc/libc6/copyright"]


def test_the_packages_of_this_machine_are_read_as_dpkg_reads_them(tmp_path: Path) -> None:
    status = Path("/var/lib/dpkg/status").read_bytes()
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = imagefiles.combine([looked({"var/lib/dpkg/status": status})])
    mine = [f"installed {p.name} {p.version} {p.arch}" for p in found.packages]
    assert len(mine) > 50
    assert sorted(mine) == sorted(line for line in told.splitlines() if line.startswith("installed "))


def test_a_later_layer_replaces_and_removes_and_the_texts_below_it_stay() -> None:
    hidden = {"usr/share/doc/.wh.libc6": b"", "var/lib/dpkg/.wh.status": b"", "usr/lib/python3/.wh..wh..opq": b""}
    found = imagefiles.combine([looked(FIRST), looked(hidden)])
    assert found.packages == ()
    assert [t.data for t in found.texts] == [b"NVIDIA's terms", DEP5]


def test_distroless_images_and_rpm_are_told_apart() -> None:
    stanza = STATUS.replace(b"Status: install ok installed\n", b"")
    found = imagefiles.combine(
        [looked({"./var/lib/dpkg/status.d/libc6": stanza.split(b"\n\n")[0], "var/lib/rpm/rpmdb.sqlite": b"x"})]
    )
    assert [(p.type, p.name) for p in found.packages] == [("deb", "libc6")]
    assert found.unread == ("var/lib/rpm/rpmdb.sqlite",)


def test_long_names_are_read_in_both_formats_of_tar() -> None:
    name = "usr/share/doc/" + "a" * 200 + "/copyright"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        members = tarstream.Reader(io.BytesIO(tar({name: b"terms"}, form)), "layer")
        assert imagefiles.look(members, Budget()).files == {name: b"terms"}


def test_every_tar_that_python_writes_is_read_as_python_reads_it(tmp_path: Path) -> None:
    """Files, directories, links, devices, sparse headers, names of any length and letters."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for n, (name, kind) in enumerate(
            [("a", tarfile.REGTYPE), ("é" * 120, tarfile.REGTYPE), ("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE),
             ("c", tarfile.CHRTYPE), ("p", tarfile.FIFOTYPE), ("x/" * 150 + "y", tarfile.REGTYPE)]
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (
                kind,
                "é" * 101 if kind == tarfile.SYMTYPE else "a" if kind == tarfile.LNKTYPE else "",
            )
            info.size = 511 + n if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"z" * info.size))
    out.seek(0)
    reader = tarstream.Reader(io.BytesIO(out.getvalue()), "a")
    mine = [(m.name, m.size, m.target, reader.read(5)) for m in reader]
    with tarfile.open(fileobj=out) as archive:
        theirs = [
            (m.name, m.size, m.linkname, (f.read(5) if m.isreg() and (f := archive.extractfile(m)) else b""))
            for m in archive
        ]
    assert mine == theirs


def test_labels_that_are_no_text_are_no_licence() -> None:
    config = {"config": {"Labels": {imagefiles.LABEL: "Apache-2.0 AND\x1b[2J MIT"}}}
    assert imagefiles.label(json.dumps(config).encode()) == r"Apache-2.0 AND\x1b[2J MIT"
    for raw in (
        b"",
        b"{}",
        b'{"config": null}',
        b'{"config": {"Labels": []}}',
        b'{"config": {"Labels": {"%s": "\\ud800"}}}' % imagefiles.LABEL.encode(),
    ):
        assert imagefiles.label(raw) == ""


def test_an_image_that_holds_too_much_of_it_is_refused() -> None:
    with pytest.raises(TrustError, match="larger than those of any honest image"):
        looked(FIRST, Budget(size=100))
    with pytest.raises(TrustError, match="larger than those of any honest image"):
        looked(FIRST, Budget(files=2))


@pytest.mark.parametrize(
    "pack",
    [
        lambda d: d,
        gzip.compress,
        lambda d: subprocess.run(["zstd", "-qc"], input=d, capture_output=True, check=True).stdout,
    ],
)
def test_what_is_inside_an_image_reaches_licences_and_bill(site: Site, tmp_path: Path, pack: Any) -> None:
    site.image(
        "web", [pack(tar(FIRST)), pack(tar({"usr/share/licenses/b/COPYING": b"B's terms"}))], {imagefiles.LABEL: "MIT"}
    )
    writing.write(site.lock, site.work(tmp_path), tmp_path / "content")
    index = json.loads((tmp_path / "content/licences/index.json").read_text())
    assert index["unknown"] == []
    assert index["images"]["web"]["packages"][0] == {
        "type": "deb", "name": "libc6", "version": "2.36-9", "arch": "amd64", "licence": "LGPL-2.1+ AND MIT"
    }  # fmt: skip
    [manifest] = [a for a in index["artifacts"] if a["name"] == "web"]
    assert manifest["licence"] == "MIT"
    texts = {(tmp_path / f"content/licences/texts/{t}.txt").read_bytes() for t in manifest["texts"]}
    assert texts == {DEP5, b"NVIDIA's terms", b"B's terms"}
    assert "deb libc6 2.36-9: LGPL-2.1+ AND MIT" in (tmp_path / "content/licences/index.txt").read_text()
    bill = json.loads((tmp_path / "content/sbom/bundle.cdx.json").read_text())
    [image] = bill["components"]
    purls = {c.get("purl") for c in image["components"] if c["type"] == "library"}
    assert purls == {"pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12", "pkg:pypi/vllm@0.32.0"}


def test_two_images_with_the_same_package_make_a_bill_without_a_name_twice(site: Site, tmp_path: Path) -> None:
    for name, extra in (("one", {"a": b"1"}), ("two", {"a": b"2"})):
        site.image(name, [tar({**FIRST, **extra})])
    writing.write(site.lock, site.work(tmp_path), tmp_path / "content")
    bill = json.loads((tmp_path / "content/sbom/bundle.cdx.json").read_text())
    refs = [c["bom-ref"] for image in bill["components"] for c in image["components"]]
    assert len(refs) == len(set(refs))
    assert sum("libc6" in r for r in refs) == 2


def test_a_layer_that_is_no_archive_is_refused(site: Site, tmp_path: Path) -> None:
    site.image("web", [b"no layer at all" * 100])
    with pytest.raises(TrustError, match="cannot be read"):
        writing.write(site.lock, site.work(tmp_path), tmp_path / "content")


def test_an_xz_file_of_several_streams_and_padding_is_read_whole(tmp_path: Path) -> None:
    import lzma

    (tmp_path / "a").write_bytes(lzma.compress(b"one") + bytes(8) + lzma.compress(b"two"))
    with unpack.opened(tmp_path / "a") as stream:
        assert stream.read() == b"onetwo"
    (tmp_path / "a").write_bytes(lzma.compress(b"one" * 1000)[:-20])
    with unpack.opened(tmp_path / "a") as stream, pytest.raises(TrustError, match="cannot be unpacked"):
        stream.read()
