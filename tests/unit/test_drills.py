"""The drills of docs/trust.md, typed as they stand there: a lost key, a stolen key of each kind, a control host that lost its state."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.errors import ApplianceError, InputError, TrustError
from engine.memory import Memory
from engine.verify import open_bundle
from installer.cli.main import app
from installer.depot import Depot
from installer.trust import sign
from installer.trust.keys import KeyStore
from tests.bundles import PASSPHRASE

DOCUMENT = Path(__file__).parents[2] / "docs/trust.md"


class Site:
    """A builder with its keys, root keys on media of their own, and a control host."""

    def __init__(self, work: Path) -> None:
        self.work, self.keys, self.depot = work, work / "keys", work / "depot"
        (work / "passphrase").write_text(PASSPHRASE)
        (work / "passphrase").chmod(0o600)
        self.run("keys", "init", "--keys", self.keys, "--passphrase-file", work / "passphrase")
        shutil.copy(self.keys / "root.json", work / "root.json")

    def run(self, *words: object) -> str:
        told = CliRunner().invoke(app, [str(w) for w in words])
        if isinstance(told.exception, ApplianceError):
            raise told.exception
        assert told.exit_code == 0, told.output
        return told.output

    def signing(self, *words: object) -> str:
        return self.run(*words, "--keys", self.keys, "--passphrase-file", self.work / "passphrase")

    def release(self, version: str, hours: int, keys: Path | None = None) -> Path:
        """A signed bundle, ``hours`` ago, by the keys as they are or by a thief's copy of them.

        What is signed now is two seconds ahead, so that it is newer than a renewal of a moment ago.
        """
        bundle = self.work / "dist" / f"{version}{'-thief' if keys else ''}" / f"ours-{version}"
        (bundle / "content").mkdir(parents=True)
        (bundle / "content/a").write_text(f"{version} {bool(keys)}")
        targets = sign.targets_of(sign.digests_of(bundle, ["content/a"]), lambda p: sign.Label("files", ("gpu",)))
        sign.sign(
            bundle, targets, name="ours", release=f"ours-{version}", keys=KeyStore(keys or self.keys), passphrase=PASSPHRASE,
            days=30, now=datetime.now(UTC) + timedelta(seconds=2, hours=-hours),
        )  # fmt: skip
        return bundle

    def imported(self, bundle: Path, *more: object) -> str:
        return self.run("import", bundle, "--depot", self.depot, *more)

    def carry_roots(self) -> None:
        shutil.rmtree(self.work / "trust-update", ignore_errors=True)
        self.run("keys", "export", self.work / "trust-update", "--keys", self.keys)
        self.run("trust", "update", self.work / "trust-update", "--depot", self.depot)

    def carry_renewal(self, bundle: Path) -> None:
        shutil.rmtree(self.work / "renewal", ignore_errors=True)
        self.signing("renew", bundle, "--out", self.work / "renewal")
        self.imported(self.work / "renewal")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def names_of(site: Site, role: str) -> list[str]:
    _, rows = KeyStore(site.keys).describe()
    return [r.name for r in rows if r.role == role]


def test_a_lost_signing_key_is_replaced_and_the_site_goes_on(site: Site) -> None:
    bundle = site.release("1.0.0", 2)
    site.imported(bundle, "--root", site.work / "root.json")
    [lost] = names_of(site, "targets")
    (site.keys / f"{lost}.pem").unlink()
    with pytest.raises(InputError, match="not all keys of targets are here"):
        site.signing("keys", "rotate", "targets")
    site.run("keys", "new", "release-2", "--in", site.keys, "--passphrase-file", site.work / "passphrase")
    site.signing("keys", "rotate", "targets", "--revoke", lost, "--key", site.keys / "release-2.pub.json")
    site.carry_roots()
    with pytest.raises(TrustError, match="not signed by the keys"):
        site.imported(bundle)
    site.carry_renewal(bundle)
    site.imported(site.release("1.1.0", 0))
    assert sorted(Depot(site.depot).releases()) == ["ours-1.0.0", "ours-1.1.0"]


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "root"])
def test_a_key_in_other_hands_counts_for_nothing_once_the_roots_were_carried(site: Site, role: str) -> None:
    """The thief has a copy of every key of the builder but the root keys; one kind is found out and replaced."""
    bundle = site.release("1.0.0", 5)
    site.imported(bundle, "--root", site.work / "root.json")
    stolen = site.work / "stolen"
    shutil.copytree(site.keys, stolen)
    before = site.release("6.6.6", 4, stolen)
    node = Memory(site.work / "node", (site.work / "root.json").read_bytes())
    open_bundle(bundle, (site.work / "root.json").read_bytes(), node)
    if role == "root":
        first, *rest = names_of(site, "root")
        site.signing("keys", "rotate", "root", "--revoke", first, "--threshold", "2")
        assert len(rest) == 2
        site.carry_roots()
        # One root key of three changes nothing: what the thief signs with it alone is no root.
        assert Depot(site.depot).memory().newest_root() == (site.keys / "root.json").read_bytes()
        return
    site.signing("keys", "rotate", role)
    site.carry_roots()
    for evil in (before, site.release("6.6.7", 0, stolen)):
        with pytest.raises(TrustError, match="not signed by the keys"):
            site.imported(evil)
    site.carry_renewal(bundle)
    trusted = open_bundle(Depot(site.depot).view("ours-1.0.0"), (site.work / "root.json").read_bytes(), node)
    assert trusted.root_version == 2, "nodes follow through the depot"
    with pytest.raises(TrustError, match="not signed by the keys"):
        open_bundle(before, (site.work / "root.json").read_bytes(), node)


def test_a_control_host_without_its_state_takes_nothing_older_and_nodes_do_not_either(site: Site) -> None:
    old, new = site.release("1.0.0", 3), site.release("1.1.0", 1)
    site.imported(old, "--root", site.work / "root.json")
    site.imported(new)
    version = Depot(site.depot).memory().version("ours")
    node = Memory(site.work / "node", (site.work / "root.json").read_bytes())
    open_bundle(new, (site.work / "root.json").read_bytes(), node)
    shutil.rmtree(site.depot)
    with pytest.raises(ApplianceError, match="no root of trust"):
        site.imported(new)
    again = ("--root", site.work / "root.json", "--minimum-version", version)
    with pytest.raises(TrustError, match=f"at least {version} is required"):
        site.imported(old, *again)
    site.imported(new, *again)
    with pytest.raises(TrustError, match="rollback attack"):
        site.imported(old)
    with pytest.raises(TrustError, match="rollback attack"):
        open_bundle(old, (site.work / "root.json").read_bytes(), node)


def test_a_backup_of_the_state_that_is_older_only_forgets(site: Site) -> None:
    old, new = site.release("1.0.0", 3), site.release("1.1.0", 1)
    site.imported(old, "--root", site.work / "root.json")
    shutil.copytree(site.depot, site.work / "backup")
    site.imported(new)
    shutil.rmtree(site.depot)
    shutil.copytree(site.work / "backup", site.depot)
    assert Depot(site.depot).releases() == ["ours-1.0.0"]
    site.imported(new)
    with pytest.raises(TrustError, match="rollback attack"):
        site.imported(old)


def test_the_document_has_the_drills() -> None:
    text = DOCUMENT.read_text()
    drills = text[text.index("## Drills") :]
    for command in ("keys rotate targets", "keys export", "renew", "trust update", "import", "--minimum-version"):
        assert re.search(rf"^    appliance .*{command}", drills, re.MULTILINE), command
