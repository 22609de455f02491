"""Inside the gap: every package is checked by its vendor's own signature, and what does not fit is named."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.errors import InputError, TrustError
from installer import openpgp
from installer.cli.main import main
from installer.definition import Definition
from installer.kinds import Work, debaudit, debs
from tests.integration import aptsite


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's directory with two packages of a vendor; `stranger.asc` lies beside it."""
    base = tmp_path_factory.mktemp("made")
    key = aptsite.make_key(base / "key", "Vendor")
    (base / "vendor.asc").write_bytes(openpgp.public(key[0]))
    (base / "stranger.asc").write_bytes(openpgp.public(aptsite.make_key(base / "other", "Stranger")[0]))
    with aptsite.serve(base / "site") as site:
        site.deb("tool", "2:1.0", depends="lib")
        site.deb("lib")
        site.publish_suite("noble", {"main": {("tool", "2:1.0"), ("lib", "1.0")}}, key)
        text = {
            "schema": 1, "name": "test", "version": "1.0", "target": {"os": "ubuntu-24.04", "python": "3.12"},
            "debs": {
                "sources": [{"uri": site.url, "suites": ["noble"], "signed_by": "vendor.asc"}],
                "groups": [{"packages": ["tool"], "profiles": ["gpu"]}],
            },
        }  # fmt: skip
        work = Work(Definition.model_validate(text), base, Blobs(base / "cache"), epoch=1_760_000_000, apt_key=key)
        found = debs.resolve(work)
        debs.fetch(work, found)
        debs.lay_out(work, found, base / "bundle/content")
    return base


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to tamper with; copies, not links into the cache."""
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    for path in (tmp_path / "bundle").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "bundle"


def evidence(bundle: Path, name: str) -> Path:
    (path,) = (bundle / "content/debs/evidence").rglob(name)
    return path


def audit(bundle: Path, *keyrings: Path) -> list[debaudit.Vouched]:
    return debaudit.audit(debaudit.files_of(bundle), keyrings)


def test_an_untouched_bundle_is_vouched_for_by_its_vendor(bundle: Path, made: Path) -> None:
    (one,) = audit(bundle)
    assert one.packages == 2
    assert one.indexes == ("main/binary-amd64/Packages.xz",)
    assert len(one.signers) == 1
    assert audit(bundle, made / "vendor.asc") == [one]
    assert "Filename: evidence" not in (bundle / "content/debs/Packages").read_text()


def test_a_swapped_package_is_named(bundle: Path) -> None:
    pool = bundle / "content/debs/pool"
    data = bytearray((pool / "tool_1.0_amd64.deb").read_bytes())
    data[-1] ^= 1
    (pool / "tool_1.0_amd64.deb").write_bytes(data)
    with pytest.raises(TrustError, match=r"pool/tool_1\.0_amd64\.deb: no vendor signed for SHA-256"):
        audit(bundle)


def test_a_signed_package_under_the_name_of_another_is_named(bundle: Path) -> None:
    pool = bundle / "content/debs/pool"
    shutil.copyfile(pool / "lib_1.0_amd64.deb", pool / "tool_1.0_amd64.deb")
    with pytest.raises(TrustError, match=r"tool_1\.0_amd64\.deb: the vendor calls this content lib_1\.0_amd64\.deb"):
        audit(bundle)


def test_an_index_that_was_made_to_fit_a_swapped_package_is_refused(bundle: Path) -> None:
    index = evidence(bundle, "Packages.xz")
    index.write_bytes(lzma.compress(lzma.decompress(index.read_bytes()) + b"Package: evil\n"))
    with pytest.raises(TrustError, match=r"Packages\.xz: the index is not the one that the vendor signed"):
        audit(bundle)


def test_a_changed_release_and_a_strangers_keyring_are_refused(bundle: Path, made: Path) -> None:
    with pytest.raises(TrustError, match="signature does not verify"):
        audit(bundle, made / "stranger.asc")
    release = evidence(bundle, "InRelease")
    release.write_text(release.read_text().replace("noble", "mable"))
    with pytest.raises(TrustError, match="signature does not verify"):
        audit(bundle)


@pytest.mark.parametrize("name", ["InRelease", "keyring.asc"])
def test_evidence_with_a_hole_is_refused(name: str, bundle: Path) -> None:
    evidence(bundle, name).unlink()
    with pytest.raises(TrustError, match="not whole"):
        audit(bundle)


def test_a_bundle_without_evidence_or_with_links_is_refused(bundle: Path) -> None:
    index = evidence(bundle, "Packages.xz")
    moved = bundle / "moved"
    index.rename(moved)
    index.symlink_to(moved)
    with pytest.raises(TrustError, match="no links"):
        audit(bundle)
    shutil.rmtree(bundle / "content/debs/evidence")
    with pytest.raises(InputError, match="no evidence"):
        audit(bundle)


def test_the_command_reports_sources_and_exits_3_on_a_swapped_package(
    bundle: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as good:
        main(["debs", "check", str(bundle), "--keyring", str(made / "vendor.asc"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert good.value.code == 0
    assert told["sources"][0]["packages"] == 2
    (bundle / "content/debs/pool/lib_1.0_amd64.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(SystemExit) as bad:
        main(["debs", "check", str(bundle)])
    assert bad.value.code == 3
    assert "lib_1.0_amd64.deb" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["debs", "check", str(bundle), "--keyring", str(bundle / "nowhere")])
    assert usage.value.code == 2
