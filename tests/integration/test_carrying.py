"""Carrying as people type it: a plan, volumes, one written again, a depot that tells what it lacks; a delta from a receipt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from installer.cli.options import default_cache
from tests.integration.test_signing import People


@pytest.fixture
def people(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> People:
    made = People(tmp_path, default_cache(), capfd, monkeypatch)
    made.types("keys", "init", "--keys", made.keys)
    made.build()
    return made


def test_volumes_cross_and_a_bad_one_is_written_again(people: People) -> None:
    keys, out, root = ("--keys", people.keys), people.place / "volumes", ("--root", people.keys / "root.json")
    planned = people.types("split", people.bundle, "--size", "30M", "--out", out, "--dry-run", *keys)
    assert not planned["written"]
    assert not out.exists()
    written = people.types("split", people.bundle, "--size", "30M", "--out", out, *keys)
    media = [Path(v["volume"]) for v in written["volumes"]]
    assert len(media) == planned["of"] >= 2
    victim = max((p for p in media[0].rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    bad = people.types("verify", media[0], *root, ok=3)
    assert [f["path"] for f in bad["findings"]] == [str(victim.relative_to(media[0]))]
    first = people.types("import", *media[1:], "--depot", people.depot, *root)
    assert (first["complete"], first["waiting_for"]) == (False, [1])
    refused = people.types("import", media[0], "--depot", people.depot, ok=3)
    assert "volume 1 is damaged" in refused["error"]["what"]
    shutil.rmtree(media[0])
    people.types("split", people.bundle, "--size", "30M", "--out", out, "--only", "1", *keys)
    assert people.types("import", media[0], "--depot", people.depot)["complete"]


def test_a_receipt_makes_the_delta_and_the_depot_completes_it(people: People) -> None:
    depot, root = ("--depot", people.depot), ("--root", people.keys / "root.json")
    people.types("import", people.bundle, *depot, *root)
    site = people.place / "site"
    sent = people.types(
        "receipt", "--out", people.place / "r.json", "--site-keys", site, "--runs", people.place, *depot
    )
    definition = people.place / "small.yml"
    text = definition.read_text()
    definition.write_text(text.replace("1.0.0", "1.1.0").replace("description: ''", ""))
    old = people.bundle
    people.build()
    new = people.bundle.with_name("small-1.1.0")
    delta = people.place / "delta"
    made = people.types(
        "delta", new, "--receipt", people.place / "r.json", "--site", sent["public"], "--out", delta, *root
    )
    assert made["size"] < made["whole"] / 100
    assert people.types("diff", old, new, *root)["to_carry"] == made["size"]
    assert people.types("verify", delta, *root, ok=3)["findings"]
    assert "verify it with --depot" in people.is_told("verify", delta, *root, ok=3)
    assert people.types("verify", delta, *root, *depot)["good"]
    assert people.types("import", delta, *depot)["copied"] == made["size"]
    assert people.types("depot", "list", *depot)["releases"] == ["small-1.0.0", "small-1.1.0"]


MISTAKES = [
    (["split", "BUNDLE"], "the media are not said"),
    (["split", "BUNDLE", "--size", "many"], "'many' is not a size"),
    (["split", "BUNDLE", "--size", "10k"], "too small"),
    (["split", "BUNDLE", "--size", "30M", "--only", "77"], "there is no volume 77"),
    (["delta", "BUNDLE", "--out", "x"], "what the site has is not said"),
    (["delta", "BUNDLE", "--out", "x", "--receipt", "r.json"], "proves nothing"),
]


def test_what_cannot_be_carried_is_one_sentence(people: People) -> None:
    for words, told in MISTAKES:
        named = [str(people.bundle) if w == "BUNDLE" else w for w in words]
        answer = people.types(*named, "--keys", people.keys, ok=2)
        assert told in answer["error"]["what"], words
