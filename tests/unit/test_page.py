"""The page for a change board: who signed, what changes, what needs a person, licences counted truthfully, printed whole, text only."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Root
from typer.testing import CliRunner

from engine import metadata, signers
from engine.errors import TrustError
from engine.trust import Trusted
from engine.verify import open_bundle
from installer.cli.main import app
from installer.evidence import contents, drafts, licenceview, page, previous, provenance, remarks, update
from installer.evidence.contents import Contents
from installer.kinds import imagelist
from installer.lockfile import GATED, SIGNATURE, TERMS, Artifact, Lock
from installer.trust import sign
from installer.trust.signer import write_public
from tests.bundles import NOW, Bundle, MemoryKeys, make
from tests.unit.test_sbom import ARTIFACTS, DEFINITION, artifact, lock

INDEX = {"unknown": ["files/f"], "ask_before_redistribution": ["wheels/vllm/nvcc.whl"]}


def of(*artifacts: Artifact, index: dict[str, Any] | None = None, version: int = 1_796_000_000) -> Contents:
    trusted = Trusted("ours", "ours-1.0.0", version, "2027-01-01T00:00:00+00:00", 1, {})
    return Contents(trusted, DEFINITION.model_dump(mode="json", by_alias=True), lock(*artifacts), index or INDEX)


def shown(html: str) -> str:
    """The words of a page as a reader sees them."""
    seen = []

    class Words(HTMLParser):
        def handle_data(self, data: str) -> None:
            seen.append(data)

    Words().feed(html.partition("<body>")[2])
    return " ".join(" ".join(seen).split())


def a_bundle(
    where: Path,
    *artifacts: Artifact,
    version: str = "1.0.0",
    keys: MemoryKeys | None = None,
    days_ago: int = 0,
    days: int = 30,
    name: str = "ours",
) -> Bundle:
    """A signed bundle whose manifest and provenance tell of these artifacts; of the files themselves nothing is in it."""
    told = lock(*artifacts).model_copy(update={"version": version, "name": name})
    files = {
        "manifest.json": json.dumps({"definition": DEFINITION.model_dump(mode="json", by_alias=True), "lock": told.model_dump(mode="json", by_alias=True)}).encode(),
        "provenance/bundle.intoto.json": json.dumps(provenance.statement(told, builder="https://ci.example.test")).encode(),
    }  # fmt: skip
    return make(where, files, keys=keys, version=version, now=NOW - timedelta(days=days_ago), days=days, name=name)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\x1b[2J", "{{ 7*7 }}", "</style><b>"]
)
def test_nothing_on_the_page_is_more_than_text(hostile: str) -> None:
    source = hostile.replace("\x1b", "")  # a lock takes no address with such characters
    nasty = artifact("files/n", hostile, "files", version=hostile, licence=hostile, notes=(hostile,), source=source)
    told = of(
        nasty,
        index={
            "artifacts": [{"path": "files/n", "spdx": hostile, "basis": "declared"}],
            "ask_before_redistribution": [hostile],
        },
    )
    told = replace(
        told,
        builder=hostile,
        definition={"description": hostile, "target": {"os": hostile}},
        roles=(signers.Role("targets", 1, (signers.Signer("ab", hostile, True),)),),
    )
    step = update.between((replace(told.trusted, release=hostile), lock()), (told.trusted, told.lock), given=True)
    html = page.render(told, step, refused=[(hostile, hostile)], names={"ab": hostile})
    clean = page.render(of(artifact("files/n", "n", "files")))
    assert "<script" not in html
    assert "<img" not in html
    assert "\x1b" not in html
    assert html.count("<style>") == html.count("</style>") == 1
    assert (
        html.partition("<style>")[2].partition("</style>")[0] == clean.partition("<style>")[2].partition("</style>")[0]
    )
    assert "{{ 7*7 }}" in html or "7*7" not in hostile


def test_the_page_needs_nothing_from_elsewhere_and_shows_what_needs_a_decision() -> None:
    html = page.render(of(*ARTIFACTS))
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|<(script|link|iframe|img|object|form)\b", html)
    assert "waiver licence: because" in html
    assert "wheels/vllm/nvcc.whl" in html
    assert all(a.name in html for a in ARTIFACTS)


@pytest.mark.parametrize("definition", [{}, {"target": "debian"}, {"target": {"os": ["x"]}, "description": 7}])
def test_a_definition_in_no_known_form_is_no_traceback(definition: dict[str, Any]) -> None:
    assert "ours-1.0.0" in page.render(replace(of(*ARTIFACTS), definition=definition))


def test_everything_prints_nothing_is_folded_or_cut() -> None:
    many = [
        artifact(f"files/f{n}", f"name-{n}", "files", sha256=f"{n:064x}", version=f"1.0+a.long.version.number.{n}")
        for n in range(120)
    ]
    index = {
        "artifacts": [{"path": a.path, "spdx": f"LicenseRef-{n}", "basis": "declared"} for n, a in enumerate(many)]
    }
    html = page.render(of(*many, index=index))
    assert "<details" not in html
    for n, one in enumerate(many):
        assert one.sha256 in html
        assert one.version in html
        assert f"LicenseRef-{n}<" in html
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"overflow(-x)?:|text-overflow|white-space:\s*nowrap|max-height", style)
    assert "thead { display: table-header-group; }" in style.partition("@media print")[2]
    assert "break-inside: avoid" in style.partition("@media print")[2]


def test_every_cell_says_its_column_where_a_narrow_screen_shows_no_head() -> None:
    """What keeps a screen of 390 pixels from scrolling sideways was measured with a browser (docs/evidence.md); these are its conditions."""
    html = page.render(of(*ARTIFACTS))
    style = html.partition("<style>")[2].partition("</style>")[0]
    cells = re.findall(r"<td\b[^>]*>", html)
    assert len(cells) > 20
    assert all("data-l=" in c for c in cells)
    assert "overflow-wrap: anywhere" in style
    assert "table-layout: fixed" in style
    assert re.search(r"max-width: 44rem\) \{.*table, tbody, tr, td \{ display: block; \}", style, re.DOTALL)


def test_signatures_are_those_that_were_given_of_those_that_count(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=3, signatures=2)
    absent = keys.by_role["targets"].pop()
    bundle = a_bundle(tmp_path, *ARTIFACTS, keys=keys)
    told = contents.read(bundle.path, bundle.root)
    release = next(r for r in told.roles if r.name == "targets")
    assert [r.name for r in told.roles] == ["targets", "snapshot", "timestamp", "root"]
    assert (release.needed, set(release.signed)) == (2, {k.public_key.keyid for k in keys.by_role["targets"]})
    assert absent.public_key.keyid in {s.keyid for s in release.signers} - set(release.signed)
    assert not told.draft
    signed = keys.by_role["targets"][0].public_key.keyid
    seen = shown(page.render(told, names={signed: "alice"}))
    assert "2 of 3 keys, 2 needed" in seen
    assert f"{signed} alice" in seen
    assert f"{absent.public_key.keyid} ed25519 has not signed" in seen
    assert "https://ci.example.test" in seen


def test_a_signature_that_is_there_and_wrong_does_not_count(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=2)
    bundle = a_bundle(tmp_path, keys=keys)
    trusted = open_bundle(bundle.path, bundle.root)
    path = bundle.path / "metadata/targets.json"
    document = json.loads(path.read_text())
    first = document["signatures"][0]
    first["sig"] = first["sig"][:-2] + ("00" if first["sig"][-2:] != "00" else "11")
    path.write_text(json.dumps(document))
    release = signers.read(replace(trusted, metadata=metadata.read(bundle.path).content))[0]
    assert set(release.signed) == {s["keyid"] for s in document["signatures"][1:]}
    path.write_text("other metadata")
    assert signers.read(trusted)[0].enough, "who signed is read from the bytes that were verified"


def test_verify_prints_the_keys_that_signed(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, keys=MemoryKeys(tmp_path / "keys", signers=2, signatures=2))
    (tmp_path / "root.json").write_bytes(bundle.root)
    words = ["verify", str(bundle.path), "--root", str(tmp_path / "root.json")]
    told = CliRunner().invoke(app, words, catch_exceptions=False).output
    ids = [k.public_key.keyid for k in bundle.keys.by_role["targets"]]
    assert all(i in told for i in ids)
    assert "2 of 2 release keys, 2 needed" in told
    document = json.loads(CliRunner().invoke(app, ["--json", *words], catch_exceptions=False).output)
    assert document["signatures"][0] == {"role": "targets", "needed": 2, "signed": sorted(ids), "keys": 2}


def test_the_time_on_the_page_is_the_signed_one() -> None:
    assert page.signing_time(1_796_000_000) == "2026-11-30 00:53:20 UTC"
    assert page.signing_time(1 << 80) == "not a time"
    assert "2026-11-30 00:53:20 UTC" in page.render(of(*ARTIFACTS))


def test_a_draft_is_shown_when_asked_for_and_called_a_draft(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=2, signatures=2)
    absent = keys.by_role["targets"].pop()
    bundle = a_bundle(tmp_path, *ARTIFACTS, keys=keys)
    assert drafts.is_draft(bundle.path)
    with pytest.raises(TrustError, match="not signed yet"):
        contents.read(bundle.path, bundle.root)
    told = contents.read(bundle.path, bundle.root, draft=True)
    assert told.draft
    seen = shown(page.render(told))
    assert "A draft. Not enough keys have signed" in seen
    assert "1 of 2 keys, 2 needed" in seen
    sign.add_signatures(bundle.path, sign.draft_of(metadata.read(bundle.path)), keys, "", [absent])
    finished = contents.read(bundle.path, bundle.root, draft=True)
    assert not finished.draft
    assert "A draft" not in shown(page.render(finished))


def test_a_draft_follows_the_chain_of_roots_and_no_other(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=1)
    keys.replace("targets")
    second = MemoryKeys(tmp_path / "second").by_role["targets"][0].public_key

    def two_must_sign(root: Root) -> None:
        root.add_key(second, "targets")
        root.roles["targets"].threshold = 2

    keys.next_root(two_must_sign)
    bundle = a_bundle(tmp_path, keys=keys)
    told = contents.read(bundle.path, bundle.root, draft=True)
    assert (told.trusted.root_version, len(told.roles[0].signed), told.roles[0].needed) == (3, 1, 2)
    (bundle.path / "metadata/2.root.json").write_bytes(MemoryKeys(tmp_path / "strangers").root_bytes())
    with pytest.raises(TrustError, match="not signed as the one before it demands"):
        contents.read(bundle.path, bundle.root, draft=True)


def test_a_file_of_a_draft_that_is_not_as_listed_is_refused(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path, keys=MemoryKeys(tmp_path / "keys", signers=2, signatures=3))
    manifest = bundle.path / contents.MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"ours", b"ouRs"))
    with pytest.raises(TrustError, match="not as signed"):
        contents.read(bundle.path, bundle.root, draft=True)


def newer() -> tuple[Artifact, ...]:
    """ARTIFACTS with a wheel in a newer version under another licence, other weights, a new file, and without the image."""
    wheel = artifact(
        "wheels/vllm/a-1.1-py3-none-any.whl",
        "a",
        "wheels",
        group="vllm",
        version="1.1",
        licence="ISC",
        sha256="1" * 64,
        size=10,
    )
    weights = ARTIFACTS[4].model_copy(update={"sha256": "2" * 64, "size": 3_000_007})
    kept = [a for a in ARTIFACTS if a.kind != "images" and a not in (ARTIFACTS[0], ARTIFACTS[4])]
    return (wheel, weights, *kept, artifact("files/g", "g", "files"))


def test_an_update_names_components_with_versions_sizes_and_licences() -> None:
    found = update.items(lock(*ARTIFACTS), lock(*newer()))
    assert [(i.what, i.kind, i.name, i.before, i.after, i.old_size, i.new_size, i.details) for i in found] == [
        ("changed", "wheels", "a", "1.0", "1.1", 7, 10, ("version", "licence")),
        ("removed", "images", "tool", "sha256:aa", "", 7, 0, ()),
        ("changed", "models", "tiny", "abc", "abc", 14, 3_000_014, ("content",)),
        ("added", "files", "g", "", "ababababab" + "ab", 0, 7, ()),
    ]
    assert update.items(lock(*ARTIFACTS), lock(*ARTIFACTS)) == []


def test_fresh_package_indexes_of_a_vendor_and_another_mirror_of_one_version_are_told_apart() -> None:
    evidence = ARTIFACTS[3].model_copy(update={"sha256": "9" * 64})
    moved = ARTIFACTS[2].model_copy(update={"source": "https://mirror.test/nginx"})
    (item,) = update.items(
        lock(*ARTIFACTS),
        lock(*(evidence if a is ARTIFACTS[3] else moved if a is ARTIFACTS[2] else a for a in ARTIFACTS)),
    )
    assert (item.name, item.details) == ("nginx", ("source",))


def test_another_licence_is_to_look_at_and_another_spelling_is_not() -> None:
    respelled = ARTIFACTS[0].model_copy(update={"licence": "The MIT License"})
    assert update.items(lock(*ARTIFACTS), lock(respelled, *ARTIFACTS[1:])) == []
    old, new = of(*ARTIFACTS), of(*newer())
    seen = shown(page.render(new, update.between((old.trusted, old.lock), (new.trusted, new.lock), given=True)))
    assert "Under another licence than in ours-1.0.0: a 1.1 Python wheels : ISC" in seen


def test_two_versions_of_one_package_are_one_component() -> None:
    two = artifact("debs/pool/nginx_1.3_amd64.deb", "nginx", "debs", version="1.3", sha256="4" * 64)
    (item,) = update.items(lock(*ARTIFACTS), lock(*ARTIFACTS, two))
    assert (item.what, item.before, item.after) == ("changed", "1.2-3", "1.2-3, 1.3")


def test_the_newest_earlier_bundle_beside_it_is_the_one_before(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=1)
    for version, ago in (("0.8.0", 40), ("0.9.0", 30), ("1.1.0", 1)):
        a_bundle(tmp_path, *ARTIFACTS, version=version, days_ago=ago, days=400, keys=keys)
    bundle = a_bundle(tmp_path, *newer(), version="1.0.0", days_ago=10, keys=keys)
    a_bundle(tmp_path, version="1.0.0", days_ago=12, keys=keys, name="ours-too")
    told = contents.read(bundle.path, bundle.root)
    found = previous.beside(bundle.path, bundle.root, told)
    assert found.contents is not None
    assert found.contents.trusted.release == "ours-0.9.0"
    assert found.refused == ()
    step = update.between((found.contents.trusted, found.contents.lock), (told.trusted, told.lock), given=False)
    seen = shown(page.render(told, step))
    assert "Against ours-0.9.0" in seen
    assert "the newest earlier bundle of this name beside this one" in seen
    assert "Models 0 1 0 +3.0 MB" in seen
    assert "First release" not in seen


def test_an_earlier_bundle_that_cannot_be_opened_is_named_with_its_reason_and_a_draft_is_passed_over(
    tmp_path: Path,
) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=1)
    a_bundle(tmp_path, version="0.9.0", days_ago=90, keys=keys)  # expired 60 days ago
    a_bundle(tmp_path, version="0.9.1", days_ago=3, keys=MemoryKeys(tmp_path / "drafted", signers=1, signatures=2))
    bundle = a_bundle(tmp_path, keys=keys)
    told = contents.read(bundle.path, bundle.root)
    found = previous.beside(bundle.path, bundle.root, told)
    assert found.contents is None
    assert [name for name, _ in found.refused] == ["ours-0.9.0"]
    seen = shown(page.render(told, refused=found.refused))
    assert "First release known here." in seen
    assert "Not compared, though beside this bundle: ours-0.9.0, because the metadata has expired" in seen


def test_a_step_back_is_called_one() -> None:
    new, old = of(*ARTIFACTS, version=10), of(*newer(), version=20)
    assert "step back" in page.render(new, update.between((old.trusted, old.lock), (new.trusted, new.lock), given=True))
    assert "step back" not in page.render(
        old, update.between((new.trusted, new.lock), (old.trusted, old.lock), given=True)
    )


def test_a_difference_of_sizes_has_its_sign() -> None:
    assert [page.grown(n) for n in (1500, -1500, 0)] == ["+1.5 kB", "\N{MINUS SIGN}1.5 kB", "±0 B"]


def test_the_command_compares_and_names_signers(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=1)
    a_bundle(tmp_path, *ARTIFACTS, version="0.9.0", days_ago=5, keys=keys)
    bundle = a_bundle(tmp_path, *newer(), keys=keys)
    (tmp_path / "root.json").write_bytes(bundle.root)
    public = write_public(tmp_path, "alice", keys.by_role["targets"][0].public_key)
    words = [
        "--json",
        "page",
        str(bundle.path),
        "--root",
        str(tmp_path / "root.json"),
        "--signer",
        str(public.path),
        "--out",
        str(tmp_path / "p.html"),
    ]
    told = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).output)
    assert (told["changes"], told["against"], told["draft"]) == (4, "ours-0.9.0", False)
    assert "alice" in shown((tmp_path / "p.html").read_text())


def test_facts_on_record_are_no_remarks_to_judge() -> None:
    facts = (
        ARTIFACTS[3].model_copy(update={"notes": ("signed Sat, 11 Jul 2026 10:16:37 UTC by ABCD",)}),
        artifact(
            "models/m/a",
            "m",
            "models",
            group="m",
            notes=(f"{GATED}manual", f"{TERMS}Ann on 2026-01-01: v1", f"{SIGNATURE}verified"),
        ),
        artifact("images/blobs/sha256/bb", "i", "images", group="i", notes=(imagelist.UNREAD,)),
    )
    found = remarks.of(lock(*facts))
    assert found.judge == ()
    assert {r.text for r in found.record} == {n for a in facts for n in a.notes}
    seen = shown(page.render(of(*facts, index={"artifacts": []})))
    assert "0 remarks to judge" in seen
    assert "signed Sat, 11 Jul 2026 10:16:37 UTC by ABCD" in seen.partition("On record")[2]


def test_waivers_advice_and_notes_that_nobody_knows_are_to_be_judged_once_each() -> None:
    files = [artifact(f"models/m/{n}", "m", "models", group="m", notes=("waiver licence: why",)) for n in "abc"]
    wheel = artifact(
        "wheels/s/w.whl",
        "w",
        "wheels",
        group="s",
        notes=("waiver overwrite: x", "advice template: none", "something new"),
    )
    found = remarks.of(lock(*files, wheel))
    assert found.record == ()
    assert [(r.name, r.text, len(r.files)) for r in found.judge] == [
        ("m", "waiver licence: why", 3), ("w", "advice template: none", 1), ("w", "something new", 1), ("w", "waiver overwrite: x", 1),
    ]  # fmt: skip


def entry(path: str, **told: Any) -> dict[str, Any]:
    return {"path": path, "licence": "", "texts": [], **told}


def test_a_text_that_nobody_classified_is_neither_unknown_nor_known() -> None:
    index = {
        "artifacts": [
            entry("wheels/vllm/a-1.0-py3-none-any.whl", licence="MIT License", spdx="MIT", basis="declared"),
            entry("wheels/vllm/b-2.0-py3-none-any.whl", licence="Some words <b>of</b> their own", texts=[]),
            entry("debs/pool/nginx_1.2-3_amd64.deb", texts=["ab"], spdx="", basis=""),
            entry("models/tiny/model.safetensors", licence="apache-2.0", spdx="Apache-2.0", basis="declared"),
            entry("models/tiny/config.json", licence="apache-2.0", spdx="Apache-2.0", basis="declared"),
        ]
    }
    components = licenceview.of(lock(*ARTIFACTS), licenceview.by_path(lock(*ARTIFACTS), index))
    assert {c.name: c.state for c in components} == {
        "a": "declared", "b": "words", "nginx": "unclassified", "tiny": "declared", "tool": "unknown", "f": "unknown",
    }  # fmt: skip
    counts = dict(licenceview.counted(components))
    assert sum(counts.values()) == len(components) == 6
    assert counts[licenceview.STATES["unclassified"]] == 1
    seen = shown(page.render(of(*ARTIFACTS, index=index)))
    assert "2 of unknown licence" in seen
    assert "2 licences to read" in seen
    assert "nginx 1.2-3 Debian packages : text only" in seen
    assert "declared as “Some words <b>of</b> their own”" in seen


def test_an_index_of_an_earlier_builder_is_read_with_its_words_translated() -> None:
    wheels = [
        artifact(f"wheels/s/{n}.whl", n, "wheels", group="s", licence=said)
        for n, said in (("a", "MIT"), ("b", "MIT License"), ("c", "The MIT License"))
    ]
    index = {"artifacts": [entry(a.path, licence=a.licence) for a in wheels]}
    components = licenceview.of(lock(*wheels), licenceview.by_path(lock(*wheels), index))
    assert licenceview.named(components)[0] == [licenceview.Named("MIT", 3, 0)]


@pytest.mark.parametrize(
    "index", [{"artifacts": "no"}, {"artifacts": [7, {"path": 3}]}, {"ask_before_redistribution": {}}]
)
def test_an_index_in_no_known_form_is_no_traceback(index: dict[str, Any]) -> None:
    assert "ours-1.0.0" in page.render(of(*ARTIFACTS, index=index))


def test_licences_are_counted_alone_and_among_others_and_debians_own_names_apart() -> None:
    said = ("MIT", "MIT OR Apache-2.0", "GPL-2.0-only AND LicenseRef-Debian-custom AND MIT")
    components = [licenceview.Component("debs", "", str(n), "1", s, "copyright file") for n, s in enumerate(said)]
    spdx_names, debian_names = licenceview.named(components)
    assert spdx_names == [
        licenceview.Named("MIT", 1, 2),
        licenceview.Named("Apache-2.0", 0, 1),
        licenceview.Named("GPL-2.0-only", 0, 1),
    ]
    assert debian_names == [licenceview.Named("LicenseRef-Debian-custom", 0, 1)]
    assert page.debian("MIT AND LicenseRef-Debian-custom") == "MIT AND “custom”"


def test_of_two_versions_of_a_package_the_less_clear_licence_counts() -> None:
    two = [artifact(f"debs/pool/n_{v}_amd64.deb", "n", "debs", version=v, sha256=v * 64) for v in "12"]
    index = {"artifacts": [entry(two[0].path, spdx="MIT", basis="text"), entry(two[1].path, texts=["ab"])]}
    both: Lock = lock(*two)
    (component,) = licenceview.of(both, licenceview.by_path(both, index))
    assert component.state == "unclassified"
