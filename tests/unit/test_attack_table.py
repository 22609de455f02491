"""Every attack of the TUF specification against every command that opens a bundle: what is said is the table in docs/trust.md.

`python -m tests.unit.test_attack_table` prints the table anew from what the commands do.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Targets, Timestamp

from engine import metadata, trust
from engine.errors import ApplianceError, TrustError
from engine.memory import Demand, Memory
from engine.verify import compare, open_bundle, verify
from installer.carry import delta, parity, volumes
from installer.depot import Depot
from installer.trust import kit, sign
from tests.bundles import NOW, PASSPHRASE, Bundle, MemoryKeys, make

DOCUMENT = Path(__file__).parents[2] / "docs/trust.md"
FILES = {"files/a.txt": b"a" * 3000, "manifest.json": b"{}"}
# What is said, by the words of the message; the first that fits counts.
TERMS = (
    (
        "arbitrary software",
        r"arbitrary software attack|as the one before it demands|not signed with these keys|these keys",
    ),
    ("endless data", r"endless data attack|longer than the [0-9,]+ bytes"),
    ("fast-forward", r"fast-forward attack"),
    ("freeze", r"freeze attack"),
    ("mix-and-match", r"mix-and-match attack|not complete"),
    ("rollback", r"rollback attack|at least [0-9]+ is required"),
    ("file", r"as signed|not what was promised|as listed|covered by no signature|changed|extra"),
)


@dataclass
class Scene:
    """One attack on one client: the keys, what the client knows, and a directory for everything.

    Attributes:
        upgrade: the client has 1.1.0; otherwise nothing but the pinned root.
        revocation: a root that the client of an upgrade has learned beside its release.
    """

    work: Path
    keys: MemoryKeys
    upgrade: bool
    revocation: dict[int, bytes] = field(default_factory=dict)
    newest: Path | None = None

    def release_before(self) -> Path:
        """What the client of an upgrade has."""
        made = self.newest or self.bundle("1.1.0", now=NOW - timedelta(hours=1)).path
        self.newest = made
        return made

    @property
    def roots(self) -> dict[int, bytes]:
        """Every root that the client of an upgrade knows."""
        return self.keys.roots | self.revocation if self.upgrade else self.keys.roots

    def bundle(self, version: str = "1.2.0", **more: Any) -> Bundle:
        return make(
            self.work / f"b{version}", {**FILES, "files/v": version.encode()}, keys=self.keys, version=version, **more
        )


def stranger(scene: Scene) -> Path:
    return make(scene.work / "stranger", FILES).path


def too_few(scene: Scene) -> Path:
    """Signed by a key that is none of the release keys; the thief holds snapshot and timestamp."""
    stolen = MemoryKeys(scene.work / "stolen")
    stolen.roots = scene.keys.roots
    stolen.by_role = {**scene.keys.by_role, "targets": stolen.by_role["targets"]}
    bundle = scene.bundle()
    listed = Metadata[Targets].from_bytes((bundle.path / "metadata/targets.json").read_bytes())
    listed.signatures.clear()
    listed.sign(stolen.by_role["targets"][0])
    raw = listed.to_bytes()
    online = {role: scene.keys.signers(role, "") for role in ("snapshot", "timestamp")}
    metadata.write(bundle.path, {"targets.json": raw, **sign._finish(listed.signed, raw, online)})
    return bundle.path


def revoked(scene: Scene) -> Path:
    """What a revoked key has signed; the bundle itself does not bring the root that revokes it."""
    bundle = scene.bundle()
    scene.newest = scene.release_before()
    scene.keys.replace("targets")
    scene.revocation = {2: scene.keys.roots.pop(2)}
    return bundle.path


def endless(scene: Scene) -> Path:
    bundle = scene.bundle()
    with (bundle.path / "metadata/timestamp.json").open("ab") as file:
        file.write(b" " * (20 << 20))
    return bundle.path


def replaced(scene: Scene) -> Path:
    bundle = scene.bundle()
    (bundle.path / "content/files/a.txt").write_bytes(b"b" * 3000)
    return bundle.path


def lengthened(scene: Scene) -> Path:
    bundle = scene.bundle()
    with (bundle.path / "content/files/a.txt").open("ab") as file:
        file.truncate(1 << 40)
    return bundle.path


def extraneous(scene: Scene) -> Path:
    bundle = scene.bundle()
    (bundle.path / "content/files/more").write_bytes(b"m")
    return bundle.path


def ahead(scene: Scene) -> Path:
    return scene.bundle(now=NOW + timedelta(days=300), days=400).path


def timestamp_ahead(scene: Scene) -> Path:
    bundle = scene.bundle()
    raw = Metadata[Timestamp].from_bytes((bundle.path / "metadata/timestamp.json").read_bytes())
    raw.signed.version = 1 << 40
    raw.sign(scene.keys.by_role["timestamp"][0])
    metadata.write(bundle.path, {"timestamp.json": raw.to_bytes()})
    return bundle.path


def expired(scene: Scene) -> Path:
    return scene.bundle(now=NOW - timedelta(days=40)).path


def mixed(scene: Scene) -> Path:
    one, two = scene.bundle("1.1.5", now=NOW - timedelta(minutes=90)), scene.bundle()
    shutil.copyfile(one.path / "metadata/targets.json", two.path / "metadata/targets.json")
    return two.path


def older(scene: Scene) -> Path:
    return scene.bundle("1.0.0", now=NOW - timedelta(hours=3)).path


ATTACKS: dict[str, Callable[[Scene], Path]] = {
    "arbitrary software: keys of a stranger": stranger,
    "arbitrary software: a list that no release key signed": too_few,
    "arbitrary software: a revoked release key": revoked,
    "arbitrary software: a replaced file": replaced,
    "endless data: metadata": endless,
    "endless data: a file": lengthened,
    "extraneous files": extraneous,
    "fast-forward: the whole release": ahead,
    "fast-forward: the timestamp alone": timestamp_ahead,
    "indefinite freeze: expired": expired,
    "mix-and-match": mixed,
    "rollback": older,
}


def importing(scene: Scene, bundle: Path) -> None:
    depot, pin = Depot(scene.work / "depot"), scene.work / "pin"
    pin.write_bytes(scene.keys.roots[1])
    if scene.upgrade:
        depot.import_bundle(scene.release_before(), root_json=pin)
        depot.learn(scene.roots)
    depot.import_bundle(bundle, root_json=pin, demand=_demand(scene))


def verifying(scene: Scene, bundle: Path) -> None:
    """`appliance verify` beside a depot: what is signed, and what import would say."""
    memory = _memory(scene)
    outcome = verify(bundle, memory.newest_root())
    if not outcome.good:
        raise TrustError("; ".join(f"{f.problem} {f.detail}" for f in outcome.findings))
    memory.look(trust.FilesFetcher(outcome.trusted.metadata), "file://", _demand(scene))


def fetching(scene: Scene, bundle: Path) -> None:
    """What a node does with the metadata of a depot that lies, and with the files that it serves."""
    memory = _memory(scene)
    served = (
        metadata.read(bundle)
        if not (bundle / "metadata/timestamp.json").stat().st_size > metadata.TIMESTAMP_LENGTH
        else None
    )
    content = served.content if served else {p.name: p.read_bytes() for p in (bundle / "metadata").iterdir()}
    trusted = memory.refresh(trust.FilesFetcher(content), "https://depot", _demand(scene))
    wrong = [f for f in compare(bundle, trusted).findings if f.problem != "extra"]  # only what is listed is asked for
    if wrong:
        raise TrustError(f"{wrong[0].path} is not as signed")


def signing(scene: Scene, bundle: Path) -> None:
    """Another signer's look at the list and the files, before a signature is added."""
    draft = sign.draft_of(metadata.read(bundle))
    found = compare(bundle, trust.listing(draft.signed, 1)).findings
    if found:
        raise TrustError(f"{found[0].path} is not as listed")


def renewing(scene: Scene, bundle: Path) -> None:
    sign.renew(bundle, scene.work / "renewed", keys=scene.keys, passphrase="", days=30, now=NOW)


def carrying(make_it: Callable[[Scene, Path, trust.Trusted], object]) -> Callable[[Scene, Path], None]:
    def command(scene: Scene, bundle: Path) -> None:
        make_it(scene, bundle, open_bundle(bundle, max(scene.roots.items())[1]))

    return command


def _split(scene: Scene, bundle: Path, trusted: trust.Trusted) -> None:
    planned = volumes.layout(bundle, trusted, size=1 << 24, out=scene.work / "volumes")
    volumes.write(bundle, trusted, planned, 1, NOW)


def _recover(scene: Scene, bundle: Path, trusted: trust.Trusted) -> None:
    planned = volumes.layout(bundle, trusted, size=1 << 24, out=scene.work / "volumes")
    volumes.write(bundle, trusted, planned, 1, NOW)
    [made] = parity.write(planned, trusted, [scene.work / "volumes"], NOW)
    shutil.rmtree(planned.media[0])
    parity.recover([made], trusted, scene.work / "recovered")


def making_a_kit(scene: Scene, bundle: Path) -> None:
    scene.keys.roots = scene.roots
    try:
        kit.make(bundle, scene.work / "kit", scene.keys, PASSPHRASE)
    except ApplianceError as error:
        if (
            "does not hold" not in error.what
        ):  # the bundle of this test brings no verifier: as far as an honest one comes, too
            raise


ONLY_FILES = {"arbitrary software: a replaced file", "endless data: a file", "extraneous files"}
COMMANDS: dict[str, Callable[[Scene, Path], None]] = {
    "import": importing,
    "verify": verifying,
    "node fetch": fetching,
    "sign": signing,
    "renew": renewing,
    "split": carrying(_split),
    "delta": carrying(lambda scene, bundle, trusted: delta.write(bundle, trusted, scene.work / "delta", ())),
    "recover": carrying(_recover),
    "kit": making_a_kit,
}


def _memory(scene: Scene) -> Memory:
    memory = Memory(scene.work / "state", scene.keys.roots[1])
    if scene.upgrade:
        open_bundle(scene.release_before(), scene.keys.roots[1], memory)
        memory.learn(scene.roots)
    return memory


def _demand(scene: Scene) -> Demand:
    """A client without state is told the lowest version, as a control host tells a new node."""
    return Demand() if scene.upgrade else Demand(minimum_version=int((NOW - timedelta(hours=1)).timestamp()))


def cell(attack: str, command: str, *, upgrade: bool) -> str:
    """What the command says, in the specification's word; "done" where it does its work."""
    with tempfile.TemporaryDirectory(prefix="appliance-attack-") as work:
        scene = Scene(Path(work), MemoryKeys(Path(work) / "keys"), upgrade)
        bundle = ATTACKS[attack](scene)
        try:
            COMMANDS[command](scene, bundle)
        except ApplianceError as error:
            for term, words in TERMS:
                if re.search(words, error.what):
                    return term
            raise AssertionError(f"{attack}, {command}: no term in {error.what!r}") from error
    return "done"


def table() -> list[str]:
    """The rows of the document: a cell has both stages where they differ, the first install first."""
    rows = [f"| attack | {' | '.join(COMMANDS)} |", "|---" * (len(COMMANDS) + 1) + "|"]
    for attack in ATTACKS:
        cells = []
        for command in COMMANDS:
            first, later = (cell(attack, command, upgrade=u) for u in (False, True))
            cells.append(first if first == later else f"{first} / {later}")
        rows.append(f"| {attack} | {' | '.join(cells)} |")
    return rows


def test_the_table_of_attacks_is_what_the_commands_say() -> None:
    rows = table()
    assert "\n".join(rows) in DOCUMENT.read_text(), "\n".join(["the table is now:", *rows])
    told = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[1:4] for row in rows[2:]}
    for attack in set(ATTACKS) - ONLY_FILES - {"arbitrary software: a revoked release key"}:
        assert "done" not in "".join(told[attack]), f"{attack}: every client refuses it, whatever it knows"
    assert all(cells.endswith("arbitrary software") for cells in told["arbitrary software: a revoked release key"])


if __name__ == "__main__":
    print("\n".join(table()))
