"""Licence texts from hostile archives, and what index and provenance say of a lock."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.blobs import Blobs, hash_file
from engine.errors import Exit, TrustError
from installer import definition, tarstream
from installer.bundle.build import _labels
from installer.cli.main import app
from installer.evidence import licences, provenance, texts, writing
from installer.evidence.texts import Found, Text
from installer.kinds import Work
from installer.lockfile import Artifact, Kind, Lock
from tests.bundles import Bundle, make

SHA = "ab" * 32
TREE = Path(__file__).resolve().parents[2]


def artifact(name: str, kind: Kind = "wheels", *, licence: str = "", group: str = "", sha256: str = SHA) -> Artifact:
    return Artifact(
        path=f"{kind}/{name}", kind=kind, group=group, name=name, version="1", size=1, sha256=sha256,
        source=f"https://example.test/{name}", licence=licence, profiles=("gpu",),
    )  # fmt: skip


def lock_of(*artifacts: Artifact) -> Lock:
    return Lock(schema_version=1, name="demo", version="1.0.0", definition_sha256=SHA, artifacts=artifacts)


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read_tar(members: list[tuple[str, bytes | str]]) -> Found:
    """What is found in a tar of files (bytes) and symbolic links (str)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return texts.of_members(tarstream.Reader(buffer, "a.deb"))


def test_a_wheels_texts_are_found_wherever_wheels_have_them(tmp_path: Path) -> None:
    files = {
        "a-1.dist-info/licenses/MIT.txt": b"mit", "a-1.dist-info/License.txt": b"eula", "a/LICENSE": b"vendored",
        "a/_vendor/b/NOTICE.md": b"notice", "a/license.py": b"code", "a/licenses_of_all.so": b"code", "a/data.txt": b"data",
    }  # fmt: skip
    found = texts.of_wheel(wheel(tmp_path / "a.whl", files))
    assert {t.data for t in found.texts} == {b"mit", b"eula", b"vendored", b"notice"}
    assert not found.empty


def test_a_wheel_that_only_names_others_is_empty(tmp_path: Path) -> None:
    assert texts.of_wheel(wheel(tmp_path / "a.whl", {"a-1.dist-info/METADATA": b"Name: a"})).empty


def test_a_damaged_wheel_is_one_sentence(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a.whl", {"a-1.dist-info/LICENSE": b"x" * 3000})
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(TrustError, match="not a wheel that can be read"):
        texts.of_wheel(path)


def test_a_text_that_inflates_beyond_the_limit_is_passed_over(tmp_path: Path) -> None:
    bomb = wheel(tmp_path / "a.whl", {"a-1.dist-info/LICENSE": b"\0" * (texts.MAX_TEXT + 1)})
    assert bomb.stat().st_size < 100_000
    assert texts.of_wheel(bomb).texts == ()


def test_a_link_in_a_wheel_is_passed_over(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a-1.dist-info/LICENSE")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert texts.of_wheel(tmp_path / "a.whl").texts == ()


def test_a_debs_copyright_and_links_to_other_packages_are_found() -> None:
    found = read_tar([("./usr/share/doc/a/copyright", b"gpl"), ("./usr/share/doc/b", "a"), ("./usr/bin/x", b"x")])
    assert found == Found((Text("usr/share/doc/a/copyright", b"gpl"),), ("a",))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "../../../../../../root"])
def test_a_link_out_of_the_documentation_is_passed_over(target: str) -> None:
    assert read_tar([("./usr/share/doc/a/copyright", target)]) == Found()


def test_a_real_debian_package_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.test>\nDescription: a\n"
    )
    (tree / "usr/share/doc/a").mkdir(parents=True)
    (tree / "usr/share/doc/a/copyright").write_text("gpl")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, tmp_path / "a.deb"], check=True)
    assert [t.data for t in texts.of_deb(tmp_path / "a.deb").texts] == [b"gpl"]


def test_what_is_no_debian_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"no")
    with pytest.raises(TrustError, match="cannot be unpacked"):
        texts.of_deb(tmp_path / "a.deb")


def test_a_package_has_the_text_that_it_links_to() -> None:
    a, b = artifact("a", "debs"), artifact("b", "debs")
    text = Found((Text("copyright", b"gpl"),))
    entries = licences.index((a, b), {a.path: text, b.path: Found(links=("a",))})
    assert entries[0].texts == entries[1].texts != ()


def test_an_unknown_licence_is_said_plainly() -> None:
    a, b = artifact("a"), artifact("b", licence="MIT")
    entries = licences.index((a, b), {a.path: Found(), b.path: Found()})
    assert "Artifacts of unknown licence: 1\n  wheels/a\n" in licences.readable(entries)


def test_an_nvidia_package_without_its_agreement_is_refused() -> None:
    a = artifact("nvidia-cublas", licence="NVIDIA Proprietary")
    with pytest.raises(TrustError, match="wheels/nvidia-cublas"):
        licences.require_nvidia(licences.index((a,), {a.path: Found()}))
    licences.require_nvidia(licences.index((a,), {a.path: Found((Text("License.txt", b"eula"),))}))
    free = artifact("nvidia-ml-py", licence="BSD")
    licences.require_nvidia(licences.index((free,), {free.path: Found()}))


def test_provenance_names_every_artifact_and_no_time() -> None:
    told = json.dumps(provenance.statement(lock_of(artifact("a"), artifact("b")), builder="https://example.test/b"))
    statement = json.loads(told)
    assert [s["name"] for s in statement["subject"]] == ["content/wheels/a", "content/wheels/b"]
    assert statement["predicate"]["runDetails"] == {"builder": {"id": "https://example.test/b"}}


def test_evidence_is_the_same_twice_and_no_node_fetches_it(tmp_path: Path) -> None:
    cache = Blobs(tmp_path / "cache")
    file = wheel(tmp_path / "a.whl", {"../../x-1.dist-info/LICENSE": b"climbs", "a-1.dist-info/LICENSE": b"mit"})
    sha256, size = hash_file(file)
    with cache.incoming(sha256, size) as incoming:
        incoming.restart()
        incoming.write(file.read_bytes())
    lock = lock_of(artifact("a.whl", sha256=sha256))
    work = Work(definition.load(TREE / "bundles" / "demo.yml"), tmp_path, cache)
    made = []
    for name in ("one", "two"):
        writing.write(lock, work, tmp_path / name / "content")
        files = [p for p in (tmp_path / name).rglob("*") if p.is_file()]
        made.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert made[0] == made[1]
    assert sorted(made[0].values()).count(b"mit") == 1
    assert b"climbs" not in made[0].values()
    label = _labels(work.definition.model_copy(update={"wheels": ()}), lock)
    assert {label(p).profiles for p in made[0]} == {()}
    assert label("content/wheels/requirements.txt").profiles == ("gpu",)


def provenance_bundle(tmp_path: Path, change: Any = None, builder: str = "https://ci.example.test") -> Bundle:
    """A signed bundle whose provenance may have been altered before it was signed."""
    sha256 = hashlib.sha256(b"wheel").hexdigest()
    lock = lock_of(artifact("a.whl", sha256=sha256))
    told = json.loads(json.dumps(provenance.statement(lock, builder=builder)))
    if change:
        change(told)
    files = {
        "wheels/a.whl": b"wheel",
        "manifest.json": json.dumps({"lock": lock.model_dump(mode="json", by_alias=True)}).encode(),
        "provenance/bundle.intoto.json": json.dumps(told).encode(),
    }
    return make(tmp_path, files)


def verified(bundle: Bundle, builder: str) -> int:
    (bundle.path.parent / "root.json").write_bytes(bundle.root)
    words = ["verify", str(bundle.path), "--root", str(bundle.path.parent / "root.json"), "--expect-builder", builder]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    return done.exit_code


def test_the_builder_that_is_expected_is_told_from_another(tmp_path: Path) -> None:
    bundle = provenance_bundle(tmp_path)
    assert verified(bundle, "https://ci.example.test") == 0
    with pytest.raises(TrustError, match=r"names the builder 'https://ci\.example\.test', not 'https://other\.test'"):
        verified(bundle, "https://other.test")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["predicate"]["runDetails"]["builder"].update(id="urn:evil"), "names the builder 'urn:evil'"),
        (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"][0].update(uri="https://evil.test"), "buildDefinition differ"),
        (lambda s: s["predicate"]["buildDefinition"].update(resolvedDependencies=[]), "buildDefinition differ"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "subject differ"),
        (lambda s: s.update(predicateType="https://other"), "predicateType differ"),
        (lambda s: s.pop("predicate"), "not one of ours"),
    ],
)  # fmt: skip
def test_a_provenance_that_was_altered_before_it_was_signed_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    with pytest.raises(TrustError, match=told):
        verified(provenance_bundle(tmp_path, change), "https://ci.example.test")


def test_a_provenance_altered_after_it_was_signed_is_a_changed_file(tmp_path: Path) -> None:
    bundle = provenance_bundle(tmp_path)
    path = bundle.path / "content/provenance/bundle.intoto.json"
    path.write_bytes(path.read_bytes().replace(b"ci.example", b"xx.example"))
    assert verified(bundle, "https://xx.example.test") == Exit.UNTRUSTED


def test_a_bundle_without_provenance_has_not_the_builder_that_is_expected(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="does not have it"):
        verified(make(tmp_path, {"files/a": b"a"}), "urn:appliance:builder")
