"""Images from a real registry and from archives, through the real skopeo, into one OCI layout."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from engine.report import Silent
from installer import lockfile
from installer.definition import Definition
from installer.evidence import imagefiles
from installer.kinds import Work, imagelist, images, oci
from installer.lockfile import Artifact
from tests.integration import registry
from tests.integration.registry import Layout, Registry, skopeo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry.serve(tmp_path_factory.mktemp("registry") / "r") as running:
        yield running


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def work_with(tmp_path: Path, *sources: str, arch: str = "x86_64", **image: Any) -> Work:
    """Work on a definition with images named one, two, …; over plain HTTP where they come from a registry."""
    listed = [
        {
            "name": name, "source": source, "profiles": ["gpu"], "licence": "MIT",
            **({"tls_verify": False} if source.startswith("docker://") else {}), **image,
        }
        for name, source in zip(("one", "two", "three"), sources, strict=False)
    ]  # fmt: skip
    target = {"os": "debian-12", "python": "3.11", "arch": arch}
    data = {"schema": 1, "name": "test", "version": "1.0", "target": target, "images": listed}
    return Work(Definition.model_validate(data), tmp_path, Blobs(tmp_path / "cache"))


def lock(work: Work) -> tuple[Artifact, ...]:
    return lockfile.make(work.definition, images.resolve(work)).artifacts


def carry(work: Work, content: Path) -> tuple[Artifact, ...]:
    """All four verbs."""
    locked = lock(work)
    images.fetch(work, locked)
    images.check(work, locked)
    images.lay_out(work, locked, content)
    return locked


def digest_of(layout: Path, name: str) -> str:
    return str(json.loads(skopeo("inspect", f"oci:{layout}:{name}"))["Digest"])


def test_an_image_of_a_registry_arrives_with_its_digest(server: Registry, layout: Layout, tmp_path: Path) -> None:
    pushed = layout.image("web", ["first", "second"])
    source = server.push(layout, "web", "team/web:1.2", "--preserve-digests")
    locked = carry(work_with(tmp_path, source), tmp_path / "content")
    assert digest_of(tmp_path / "content/images", "one") == pushed["digest"]
    assert {(a.version, a.source) for a in locked} == {
        ("1.2", f"docker://{server.host}/team/web@{pushed['digest']}")
    }  # fmt: skip
    assert {a.name for a in locked} == {"one", "one config", "one layer 1 of 2", "one layer 2 of 2"}
    skopeo("copy", f"oci:{tmp_path}/content/images:one", f"dir:{tmp_path}/used")
    assert hashlib.sha256((tmp_path / "used/manifest.json").read_bytes()).hexdigest() == pushed["digest"][7:]


def test_resolving_downloads_no_layer_and_nothing_stays_behind(
    server: Registry, layout: Layout, tmp_path: Path
) -> None:
    layout.image("web", ["not wanted yet"])
    work = work_with(tmp_path, server.push(layout, "web", "lazy:1"))
    locked = lock(work)
    assert not any(work.cache.has(a.sha256, a.size) for a in locked)
    images.fetch(work, locked)
    assert {p.name for p in work.cache.root.iterdir()} == {"sha256", "partial"}
    assert list((work.cache.root / "partial").iterdir()) == []


def test_a_tag_moved_after_the_lock_changes_nothing(server: Registry, layout: Layout, tmp_path: Path) -> None:
    old = layout.image("web", ["old"])
    work = work_with(tmp_path, server.push(layout, "web", "moving:latest"))
    locked = lock(work)
    new = layout.image("web", ["new"])
    server.push(layout, "web", "moving:latest")
    assert old["digest"] != new["digest"]
    images.fetch(work, locked)
    images.lay_out(work, locked, tmp_path / "content")
    assert digest_of(tmp_path / "content/images", "one") == old["digest"]


def test_of_a_list_the_targets_platform_is_taken(server: Registry, layout: Layout, tmp_path: Path) -> None:
    by_arch = {arch: layout.image(arch, [f"for {arch}"], arch) for arch in ("amd64", "arm64")}
    listed = layout.platforms("all", by_arch)
    source = server.push(layout, "all", "multi:1", "--all", "--preserve-digests")
    pinned = f"docker://{server.host}/multi:1@{listed['digest']}"
    for arch, go, asked in (("x86_64", "amd64", source), ("aarch64", "arm64", source), ("aarch64", "arm64", pinned)):
        content = tmp_path / f"{go}-{'@' in asked}"
        carry(work_with(tmp_path, asked, arch=arch), content)
        assert digest_of(content / "images", "one") == by_arch[go]["digest"]


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_all_platforms_arrive_and_each_is_used_by_its_own(
    docker: bool, server: Registry, layout: Layout, tmp_path: Path
) -> None:
    by_arch = {arch: layout.image(arch, [f"for {arch}", "shared"], arch) for arch in ("amd64", "arm64")}
    pushed = layout.platforms("all", by_arch)
    form = ["--format", "v2s2"] if docker else ["--preserve-digests"]
    source = server.push(layout, "all", "multi:2", "--all", *form)
    locked = carry(work_with(tmp_path, source, platforms="all"), tmp_path / "content")
    assert {"one", "one linux/amd64", "one linux/arm64", "one linux/arm64 layer 1 of 2"} <= {a.name for a in locked}
    assert len({a.sha256 for a in locked}) == len(locked)
    if not docker:
        assert next(a.sha256 for a in locked if a.name == "one") == pushed["digest"].removeprefix("sha256:")
    for arch in by_arch:
        skopeo("--override-arch", arch, "copy", f"oci:{tmp_path}/content/images:one", f"dir:{tmp_path}/{arch}")
        config = json.loads((tmp_path / arch / "manifest.json").read_bytes())["config"]["digest"].removeprefix(
            "sha256:"
        )
        assert json.loads((tmp_path / arch / config).read_bytes())["architecture"] == arch
    skopeo("copy", "--all", f"oci:{tmp_path}/content/images:one", f"oci:{tmp_path}/again:one")


class Told(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("artifact", [False, True], ids=["image", "artifact"])
def test_attestations_arrive_as_they_are_and_are_not_read_as_images(
    artifact: bool, server: Registry, layout: Layout, tmp_path: Path
) -> None:
    by_arch = {arch: layout.image(arch, [f"for {arch}"], arch) for arch in ("amd64", "arm64")}
    pushed = layout.attested("all", by_arch, artifact=artifact)
    source = server.push(layout, "all", f"attested:{artifact}", "--all", "--preserve-digests")
    told = Told()
    work = replace(work_with(tmp_path, source, platforms="all"), report=told)
    locked = carry(work, tmp_path / "content")
    attestations = sorted((a for a in locked if a.notes), key=lambda a: a.name)
    assert [a.name for a in attestations] == ["one linux/amd64 attestation", "one linux/arm64 attestation"]
    assert all("carried as it is" in note for a in attestations for note in a.notes)
    blobs = tmp_path / "content/images/blobs/sha256"
    assert {p.name for p in blobs.iterdir()} == {p.name for p in (layout.root / "blobs/sha256").iterdir()}
    assert digest_of(tmp_path / "content/images", "one") == pushed["digest"]
    inside = imagefiles.read(lockfile.make(work.definition, list(locked)), work)
    assert inside == {"one": imagefiles.Inside()}
    assert sorted(line for line in told.lines if "not an archive" in line) == [
        f"image {a.name}: an attestation, not an archive of files; carried unread" for a in attestations
    ]
    skopeo("copy", "--all", "--preserve-digests", f"oci:{tmp_path}/content/images:one", f"oci:{tmp_path}/again:one")
    assert digest_of(tmp_path / "again", "one") == pushed["digest"]
    one = work_with(tmp_path / "one", source)
    assert digest_of(_carried(one, tmp_path / "one/content"), "one") == by_arch["amd64"]["digest"]
    with pytest.raises(InputError, match=r"only for linux/amd64, linux/arm64\."):
        oci.choose((blobs / pushed["digest"].removeprefix("sha256:")).read_bytes(), "riscv64")


def _carried(work: Work, content: Path) -> Path:
    carry(work, content)
    return content / "images"


def test_what_calls_itself_an_attestation_but_runs_somewhere_is_an_image(layout: Layout, tmp_path: Path) -> None:
    """Nothing that a machine could run crosses unread."""
    image = layout.image("amd64", ["x"])
    marks = {"vnd.docker.reference.type": "attestation-manifest"}
    entry = {**image, "annotations": marks, "platform": {"os": "linux", "architecture": "amd64"}}
    assert [one.attestation for one in oci.listed(json.dumps({"manifests": [entry]}).encode())] == [""]
    work = work_with(tmp_path, "docker://127.0.0.1:1/x")
    hidden = imagelist.artifacts(
        work.definition.images[0], "docker://127.0.0.1:1/x", "one", manifest_of(layout, image), attestation=True
    )
    for blob in (layout.root / "blobs/sha256").iterdir():
        work.cache.keep(Path(shutil.copy(blob, tmp_path / blob.name)))
    told = Told()
    imagefiles.read(lockfile.make(work.definition, hidden), replace(work, report=told))
    assert told.lines == ["image one: reading licences and packages of 1 layers"]


def manifest_of(layout: Layout, image: dict[str, Any]) -> bytes:
    return (layout.root / "blobs/sha256" / str(image["digest"]).removeprefix("sha256:")).read_bytes()


def test_all_platforms_of_what_has_one_is_refused(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.image("web", ["x"])
    with pytest.raises(InputError, match="has no list of platforms"):
        lock(work_with(tmp_path, server.push(layout, "web", "single:1"), platforms="all"))
    with pytest.raises(InputError, match="from a registry only"):
        lock(work_with(tmp_path, f"oci:{layout.root}:web", platforms="all"))


def test_a_list_moved_after_the_lock_changes_nothing(server: Registry, layout: Layout, tmp_path: Path) -> None:
    first = layout.platforms("all", {"amd64": layout.image("amd64", ["old"])})
    source = server.push(layout, "all", "moving:1", "--all", "--preserve-digests")
    work = work_with(tmp_path, source, platforms="all")
    locked = lock(work)
    layout.platforms("all", {"amd64": layout.image("amd64", ["new"])})
    server.push(layout, "all", "moving:1", "--all", "--preserve-digests")
    images.fetch(work, locked)
    images.check(work, locked)
    assert work.cache.has(first["digest"].removeprefix("sha256:"), locked[[a.name for a in locked].index("one")].size)


def test_a_platform_that_the_lock_lacks_is_refused(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.platforms("all", {arch: layout.image(arch, [arch], arch) for arch in ("amd64", "arm64")})
    work = work_with(tmp_path, server.push(layout, "all", "lacks:1", "--all", "--preserve-digests"), platforms="all")
    locked = lock(work)
    images.fetch(work, locked)
    with pytest.raises(TrustError, match="the lock does not have"):
        images.check(work, [a for a in locked if a.name != "one linux/arm64"])


def test_an_image_for_another_processor_is_refused(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.platforms("list", {"amd64": layout.image("amd64", ["x"])})
    listed = server.push(layout, "list", "only:list", "--all")
    with pytest.raises(InputError, match="only for linux/amd64"):
        lock(work_with(tmp_path, listed, arch="aarch64"))
    single = work_with(tmp_path, server.push(layout, "amd64", "only:one"), arch="aarch64")
    locked = lock(single)
    images.fetch(single, locked)
    with pytest.raises(InputError, match="made for linux/amd64, the target is linux/arm64"):
        images.check(single, locked)


def test_dockers_own_format_is_carried_with_the_vendors_image_id(
    server: Registry, layout: Layout, tmp_path: Path
) -> None:
    layout.image("web", ["docker"])
    source = server.push(layout, "web", "docker:1", "--format", "v2s2")
    published = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", source))
    assert published["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    carry(work_with(tmp_path, source), tmp_path / "content")
    carried = json.loads(skopeo("inspect", "--raw", f"oci:{tmp_path}/content/images:one"))
    assert carried["mediaType"] == registry.MANIFEST
    assert carried["config"]["digest"] == published["config"]["digest"]
    assert [x["digest"] for x in carried["layers"]] == [x["digest"] for x in published["layers"]]
    skopeo("copy", f"oci:{tmp_path}/content/images:one", f"docker-archive:{tmp_path}/out.tar:one:1")


@pytest.mark.parametrize("transport", ["oci-archive", "oci", "docker-archive"])
def test_archives_are_carried_and_read_back(transport: str, layout: Layout, tmp_path: Path) -> None:
    pushed = layout.image("web", ["archived", "twice"])
    name = {"oci-archive": "a.tar:web", "oci": "layout:web", "docker-archive": "a.tar:web:1"}[transport]
    if transport != "oci":
        skopeo("copy", f"oci:{layout.root}:web", f"{transport}:{tmp_path}/{name}")
    carry(work_with(tmp_path, f"{transport}:{name}"), tmp_path / "content")
    skopeo("copy", f"oci:{tmp_path}/content/images:one", f"oci-archive:{tmp_path}/back.tar:web")  # unpacks every layer
    if transport != "docker-archive":  # that keeps neither manifest nor compression
        assert digest_of(tmp_path / "content/images", "one") == pushed["digest"]


def test_an_archive_replaced_after_the_lock_is_refused(layout: Layout, tmp_path: Path) -> None:
    layout.image("web", ["old"])
    work = work_with(tmp_path, "oci:layout:web")
    locked = lock(work)
    layout.image("web", ["new"])
    with pytest.raises(TrustError, match="image one: the source has another image than the locked one"):
        images.fetch(work, locked)


@pytest.mark.parametrize(("harm", "error"), [("removed", UpstreamError), ("changed", TrustError)])
def test_a_blob_that_the_registry_lost_or_changed_stops_the_fetch(
    harm: str, error: type[ApplianceError], server: Registry, layout: Layout, tmp_path: Path
) -> None:
    layout.image("web", [f"{harm} {time.time_ns()}"])
    work = work_with(tmp_path, server.push(layout, "web", f"{harm}:1"))
    locked = lock(work)
    layer = next(a for a in locked if "layer" in a.name)
    stored = server.blob(layer.sha256)
    if harm == "removed":
        stored.unlink()
    else:
        stored.write_bytes(bytes(layer.size))
    with pytest.raises(error, match="image one"):
        images.fetch(work, locked)
    assert not work.cache.has(layer.sha256, layer.size)
    assert not list(work.cache.root.glob("image-*"))


def test_what_the_lock_lacks_or_has_too_much_is_refused(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.image("web", ["a", "b"])
    work = work_with(tmp_path, server.push(layout, "web", "checked:1"))
    locked = lock(work)
    images.fetch(work, locked)
    by_name = {a.name: a for a in locked}
    with pytest.raises(TrustError, match=by_name["one layer 2 of 2"].sha256):
        images.check(work, [a for a in locked if a.name != "one layer 2 of 2"])
    extra = by_name["one"].model_copy(update={"name": "one layer 3 of 3", "sha256": "0" * 64})
    with pytest.raises(TrustError, match="no manifest names the locked blob 0000"):
        images.check(work, [*locked, extra])
    with pytest.raises(TrustError, match="no manifest of one"):
        images.check(work, [a for a in locked if a.name != "one"])


def test_two_images_share_a_layer_in_one_layout(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.image("a", ["base", "a"])
    layout.image("b", ["base", "b"])
    sources = [server.push(layout, n, f"shared/{n}:1") for n in ("a", "b")]
    locked = carry(work_with(tmp_path, *sources), tmp_path / "content")
    assert len(locked) == 2 + 2 + 3  # manifests, configs, layers
    layout_of = tmp_path / "content/images"
    assert digest_of(layout_of, "one") != digest_of(layout_of, "two")
    skopeo("copy", f"oci:{layout_of}:two", f"dir:{tmp_path}/used")
    again = work_with(tmp_path, *sources)
    images.lay_out(again, lock(again), tmp_path / "again")
    for name in ("index.json", "oci-layout"):
        assert (tmp_path / "again/images" / name).read_bytes() == (layout_of / name).read_bytes()
    with pytest.raises(InputError, match="one and two are the same image"):
        lock(work_with(tmp_path, sources[0], sources[0]))


def test_what_is_not_there_is_named(server: Registry, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match=r"image one: cannot read it: .*manifest unknown"):
        lock(work_with(tmp_path, f"docker://{server.host}/absent:1"))
    with pytest.raises(InputError, match=r"absent\.tar"):
        lock(work_with(tmp_path, "oci-archive:absent.tar"))


@pytest.mark.parametrize(
    "host", ["registry.example.org", "192.0.2.1:5000", "localhost.example.org:5000", "127.0.0.1.example.org"]
)
def test_tls_is_not_optional_beyond_loopback(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only for a registry on loopback"):
        lock(work_with(tmp_path, f"docker://{host}/web:1"))


def test_plain_http_is_not_used_unless_asked_for(server: Registry, layout: Layout, tmp_path: Path) -> None:
    layout.image("web", ["tls"])
    source = server.push(layout, "web", "tls:1")
    with pytest.raises(UpstreamError, match="HTTPS"):
        lock(work_with(tmp_path, source, tls_verify=True))
