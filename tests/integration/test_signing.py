"""The ceremonies as people type them: a draft, two signatures, a rotation, a renewal, a trust update."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.cli.main import main
from installer.cli.options import default_cache


class People:
    """The builder and two people who release, each with a directory; the site's depot. Commands run in this process."""

    def __init__(
        self, place: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.place, self._capfd, self._cache = place, capfd, cache
        self.keys, self.depot, self.bundle = place / "builder", place / "depot", place / "out" / "small-1.0.0"
        secret = place / "passphrase"
        secret.write_text("correct horse battery staple")
        secret.chmod(0o600)
        monkeypatch.setenv("APPLIANCE_PASSPHRASE_FILE", str(secret))
        (place / "hello").write_bytes(b"hello")
        file = {
            "name": "hello", "url": "file:hello", "profiles": ["gpu"],
            "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        }  # fmt: skip
        text = {
            "schema": 1,
            "name": "small",
            "version": "1.0.0",
            "target": {"os": "debian-12", "python": "3.11"},
            "files": [file],
        }
        (place / "small.yml").write_text(yaml.safe_dump(text))

    def types(self, *words: str | Path, ok: int = 0) -> dict[str, Any]:
        """Run `appliance WORDS --json`; its document."""
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json"])
        out = self._capfd.readouterr()
        assert (ended.value.code or 0) == ok, out.out + out.err
        document: dict[str, Any] = json.loads(out.out)
        return document

    def is_told(self, *words: str | Path, ok: int) -> str:
        """Run `appliance WORDS` for a person; what it says on standard error."""
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        assert (ended.value.code or 0) == ok
        return " ".join(self._capfd.readouterr().err.split())

    def build(self) -> dict[str, Any]:
        definition = self.place / "small.yml"
        self.types("lock", definition, "--cache", self._cache)
        return self.types(
            "build", "bundle", definition, "--keys", self.keys, "--out", self.place / "out", "--cache", self._cache
        )

    def new_key(self, name: str) -> Path:
        return Path(self.types("keys", "new", name, "--in", self.place / name)["public"])


@pytest.fixture
def people(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> People:
    return People(tmp_path, default_cache(), capfd, monkeypatch)


def test_two_people_release_what_the_builder_drafted(people: People) -> None:
    publics = [people.new_key(name) for name in ("alice", "bob")]
    signers = [w for p in publics for w in ("--signer", p)]
    people.types("keys", "init", "--keys", people.keys, *signers, "--signatures", "2")
    root = people.keys / "root.json"
    drafted = people.build()
    assert (drafted["finished"], drafted["signatures"], drafted["signatures_needed"]) == (False, 0, 2)
    refused = people.types("verify", people.bundle, "--root", root, ok=3)
    assert "not signed yet" in refused["error"]["what"]
    page, told = people.place / "page.html", ("--keys", people.keys, *signers)
    people.types("page", people.bundle, "--out", page, *told, ok=3)
    assert people.types("page", people.bundle, "--draft", "--out", page, *told)["draft"]
    assert "0 of 2 keys, 2 needed" in page.read_text()
    for name, public in zip(("alice", "bob"), publics, strict=True):
        shutil.copy(root, people.place / name / "root.json")
        done = people.types(
            "sign", people.bundle, "--key", public, "--root", people.place / name / "root.json",
            "--expect", drafted["content_digest"], "--yes",
        )  # fmt: skip
        assert not done["finished"]
    assert people.types("sign", people.bundle, "--keys", people.keys)["finished"]
    checked = people.types("verify", people.bundle, "--root", root)
    assert checked["good"]
    release = checked["signatures"][0]
    assert (release["role"], release["needed"], len(release["signed"])) == ("targets", 2, 2)
    assert not people.types("page", people.bundle, "--out", page, *told)["draft"]
    written = page.read_text()
    assert "2 of 2 keys, 2 needed" in written
    assert all(f"<code>{keyid}</code> <b>" in written for keyid in release["signed"])


def test_a_person_does_not_sign_what_is_not_as_listed_or_not_as_expected(people: People) -> None:
    public = people.new_key("alice")
    people.types("keys", "init", "--keys", people.keys, "--signer", public)
    drafted = people.build()
    other = people.types(
        "sign", people.bundle, "--key", public, "--keys", people.keys, "--expect", "0" * 64, "--yes", ok=3
    )
    assert drafted["content_digest"] in other["error"]["what"]
    victim = people.bundle / "content/files/hello"
    victim.chmod(0o644)
    victim.unlink()
    victim.write_bytes(b"jello")
    changed = people.types("sign", people.bundle, "--key", public, "--keys", people.keys, "--yes", ok=3)
    assert "content/files/hello" in changed["error"]["what"]


def test_a_rotation_reaches_the_site_ahead_of_the_renewed_bundle(people: People) -> None:
    people.types("keys", "init", "--keys", people.keys)
    people.build()
    first_root = people.place / "pinned.json"
    shutil.copy(people.keys / "root.json", first_root)
    depot = ("--depot", people.depot)
    people.types("import", people.bundle, *depot, "--root", first_root)
    assert people.types("keys", "rotate", "targets", "--keys", people.keys)["published"]
    update, renewal = people.place / "trust-update", people.place / "renewal"
    exported = people.types("keys", "export", update, "--keys", people.keys)
    assert exported["size"] < 20_000
    assert people.types("trust", "update", update, *depot) == {"version": 2, "before": 1, "changed": True}
    assert not people.types("trust", "update", update, *depot)["changed"]
    refused = people.types("import", people.bundle, *depot, ok=3)
    assert "not signed by the keys" in refused["error"]["what"]
    renewed = people.types("renew", people.bundle, "--out", renewal, "--keys", people.keys)
    assert renewed["finished"]
    imported = people.types("import", renewal, *depot)
    assert (imported["copied"], imported["changed"]) == (0, True)
    shown = people.types("trust", "show", *depot)
    assert (shown["root_version"], shown["names"]) == (2, {"small": renewed["version"]})
    assert shown["overrides"] == []


def test_going_back_to_an_older_bundle_is_refused_until_a_reason_is_on_record(people: People) -> None:
    people.types("keys", "init", "--keys", people.keys)
    people.build()
    older = people.place / "older"
    shutil.copytree(people.bundle, older)
    root, depot = people.keys / "root.json", ("--depot", people.depot)
    renewed = people.place / "renewed"
    newer = people.types("renew", people.bundle, "--out", renewed, "--keys", people.keys)
    _wait_for(newer["version"])
    people.types("import", people.bundle, *depot, "--root", root)
    people.types("import", renewed, *depot)
    assert "older" in people.types("import", older, *depot, ok=3)["error"]["what"]
    reason = "the renewal was signed by mistake, change 4711"
    assert people.types("import", older, *depot, "--allow-downgrade", reason)["version"] < newer["version"]
    [line] = people.types("trust", "show", *depot)["overrides"]
    assert json.loads(line)["reason"] == reason
    assert json.loads(line)["by"] in (os.environ.get("SUDO_USER"), "root")


def _wait_for(version: int) -> None:
    """Versions are seconds; the renewal must not be from this machine's future."""
    assert version <= datetime.now(UTC).timestamp() + 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["keys", "rotate", "chef"], 2, "there is no role chef"),
        (["keys", "rotate", "targets", "--revoke", "nobody"], 2, "names 0 keys"),
        (["keys", "sign-root"], 2, "no root waits"),
        (["keys", "init"], 2, "there are signing keys already"),
        (["keys", "rotate", "root"], 2, "root keys are replaced by name"),
    ],
)
def test_what_cannot_be_done_with_keys_is_one_sentence(people: People, words: list[str], code: int, told: str) -> None:
    people.types("keys", "init", "--keys", people.keys)
    assert told in people.types(*words, "--keys", people.keys, ok=code)["error"]["what"]
