"""`lock` with pins: what is pinned is taken, whatever an index offers; anything else is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.blobs import Blobs
from installer.cli.main import main
from installer.definition import Definition, WheelSet
from installer.kinds import Work, own, wheels
from installer.kinds.pins import Pins
from installer.lockfile import Artifact
from tests.integration.wheelsite import serve, wheel


class Site:
    """An index on loopback (PEP 503) with a password in its address, a folder of wheels, and a definition that uses both."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.definition, self.pins = root / "d.yml", root / "d.pins.txt"
        (root / "links").mkdir()
        self.define("thing", "local")

    def define(self, *requirements: str, **more: Any) -> None:
        wheels = {
            "name": "app", "requirements": list(requirements), "indexes": [f"{self.url}/site/"], "find_links": ["links"],
            "pins": "d.pins.txt", "profiles": ["gpu"], **more,
        }  # fmt: skip
        wheels["find_links"] = [str(self.root / "links")]
        target = {"os": "debian-12", "python": "3.11"}
        text = {"schema": 1, "name": "d", "version": "1.0.0", "target": target, "wheels": [wheels]}
        self.definition.write_text(yaml.safe_dump(text))

    def offer(self, name: str, version: str, *, yanked: bool = False, **more: Any) -> str:
        """Offer a wheel on the index; its SHA-256."""
        folder = self.root / "site" / name
        file = wheel(folder, name, version, **more)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        page = folder / "index.html"
        lines = page.read_text().splitlines() if page.exists() else ["<!DOCTYPE html>"]
        lines = [line for line in lines if f">{file.name}<" not in line]
        mark = ' data-yanked="broken"' if yanked else ""
        page.write_text("\n".join([*lines, f'<a href="{file.name}#sha256={digest}"{mark}>{file.name}</a>', ""]))
        return digest

    def link(self, name: str, version: str, **more: Any) -> str:
        return hashlib.sha256(wheel(self.root / "links", name, version, **more).read_bytes()).hexdigest()

    def lock(self, *options: str) -> int:
        argv = ["lock", str(self.definition), "--cache", str(self.root / "cache"), *options]
        with pytest.raises(SystemExit) as end:
            main(argv)
        return int(str(end.value.code or 0))

    @property
    def locked(self) -> dict[str, str]:
        """Versions in the lock by name."""
        lock = yaml.safe_load((self.root / "d.lock.yml").read_text())
        return {a["name"]: a["version"] for a in lock["artifacts"]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """`thing` needs `other`; `local` lies in the folder. The product's own wheels are another test's."""
    monkeypatch.setattr(own, "resolve", lambda work: [])
    with serve(tmp_path) as url:
        made = Site(tmp_path, url)
        made.offer("thing", "1.0", requires=("other",))
        made.offer("other", "1.0")
        made.link("local", "1.0+cpu")
        yield made


FIRST = {"thing": "1.0", "other": "1.0", "local": "1.0+cpu"}


def test_newer_releases_do_not_move_a_lock_with_pins(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.lock("--write-pins", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pins_written"] == [str(site.pins)]
    text, lock = site.pins.read_text(), (site.root / "d.lock.yml").read_text()
    assert "127.0.0.1" not in text and str(site.root) not in text
    site.offer("thing", "2.0", requires=("other", "brand-new"))
    site.offer("other", "2.0")
    site.link("local", "2.0+cpu")
    assert site.lock() == 0
    assert (site.locked, site.pins.read_text()) == (FIRST, text)
    assert site.lock("--check") == 0
    assert (site.root / "d.lock.yml").read_text() == lock


def test_a_check_says_what_would_change_in_a_lock(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.lock("--write-pins") == 0
    path = site.root / "d.lock.yml"
    text = path.read_text()
    thing, other = (f"wheels/app/{n}-1.0-py3-none-any.whl" for n in ("thing", "other"))

    def check(edited: str) -> tuple[str, dict[str, Any]]:
        path.write_text(edited)
        capsys.readouterr()
        assert site.lock("--check", "--quiet") == 1
        said = capsys.readouterr().out
        assert site.lock("--check", "--json") == 1
        assert path.read_text() == edited
        return said, json.loads(capsys.readouterr().out)

    said, told = check(text.replace(f"source: {site.url}/", "source: http://elsewhere.test/"))
    assert f"2 from another source\n  from another source: {other}\n  from another source: {thing}\n" in said
    assert (told["sources"], told["details"], told["changed"], told["parts"]) == ([other, thing], [], [], [])
    said, told = check(text.replace("licence: Apache-2.0", "licence: MIT", 1))
    assert "1 described differently\n  described differently: wheels/app/" in said
    assert (told["sources"], len(told["details"])) == ([], 1)
    said, told = check(text.replace("version: 1.0.0", "version: 0.9.0", 1))
    assert "1 other parts\n  other parts: version\n" in said
    assert told["parts"] == ["version"]
    said, _ = check(text + "# by hand\n")
    assert "its text alone" in said
    said, _ = check("[")
    assert "the lock that is there cannot be read" in said


def test_a_wheel_added_later_does_not_replace_the_one_that_was_pinned(site: Site) -> None:
    assert site.lock("--write-pins") == 0
    site.offer("other", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64")  # fits better than py3-none-any
    assert site.lock("--check") == 0


def test_a_release_that_was_yanked_since_is_still_taken(site: Site) -> None:
    assert site.lock("--write-pins") == 0
    site.offer("other", "1.0", yanked=True)
    site.offer("other", "0.9")
    assert site.lock("--check") == 0


@pytest.mark.parametrize("name", ["other", "local"])
def test_the_same_version_with_other_bytes_is_refused_and_both_are_named(
    site: Site, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.lock("--write-pins") == 0
    before = {p: p.read_bytes() for p in (site.pins, site.root / "d.lock.yml")}
    text = site.pins.read_text().splitlines()
    line = next(i for i, line in enumerate(text) if line.startswith(f"{name}=="))
    pinned = text[line + 1].rpartition(":")[2]
    served = (
        site.offer("other", "1.0", files={"other/__init__.py": "evil"})
        if name == "other"
        else site.link("local", "1.0+cpu", files={"local/__init__.py": "evil"})
    )
    for options in ((), ("--write-pins",), ("--write-pins", "--upgrade")):
        capsys.readouterr()
        assert site.lock(*options) == 4
        said = capsys.readouterr()
        assert all(
            w in said.out + said.err
            for w in (f"{name} {FIRST[name]}", pinned[:12], served[:12], f"{site.pins}:{line + 1}")
        )
    assert {p: p.read_bytes() for p in before} == before


def test_what_is_not_pinned_is_refused_and_writing_adds_it_without_moving_the_rest(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.lock("--write-pins") == 0
    site.offer("thing", "2.0", requires=("other",))
    site.offer("extra", "1.0")
    site.define("thing", "local", "extra")
    capsys.readouterr()
    assert site.lock() == 2
    assert "needed and not pinned: extra 1.0" in "".join(capsys.readouterr())
    assert site.lock("--write-pins") == 0
    assert site.locked == {**FIRST, "extra": "1.0"}
    assert site.lock("--write-pins", "--upgrade") == 0
    assert site.locked == {**FIRST, "thing": "2.0", "extra": "1.0"}
    assert site.lock("--check") == 0


def test_a_pinned_version_that_is_gone_is_an_error_that_names_the_pins(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.lock("--write-pins") == 0
    shutil.rmtree(site.root / "site" / "other")
    site.offer("other", "2.0")
    capsys.readouterr()
    assert site.lock() == 2
    said = "".join(capsys.readouterr())
    assert "other==1.0" in said and str(site.pins) in said


def test_pins_that_nothing_needs_are_named_and_written_out(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.lock("--write-pins") == 0
    site.define("thing")
    capsys.readouterr()
    assert site.lock() == 0
    assert "not needed: local 1.0+cpu" in "".join(capsys.readouterr())
    assert site.lock("--write-pins") == 0
    assert "local" not in site.pins.read_text()


def test_direct_wheels_are_pinned_as_well(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    file = wheel(site.root / "released", "kernels", "1.0")
    direct = {"url": f"{site.url}/released/{file.name}", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    site.define("thing", direct=[direct])
    assert site.lock("--write-pins") == 0
    assert f"kernels==1.0 \\\n    --hash=sha256:{direct['sha256']}\n" in site.pins.read_text()
    assert site.lock("--check") == 0
    file = wheel(site.root / "released", "kernels", "1.0", files={"kernels/__init__.py": "changed"})
    site.define("thing", direct=[{**direct, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}])
    capsys.readouterr()
    assert site.lock() == 4
    assert "kernels 1.0 is pinned to" in "".join(capsys.readouterr())


def test_options_that_do_not_go_together_say_so(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for options, what in (
        (("--write-pins", "--check"), "--check writes nothing"),
        (("--upgrade",), "goes with --write-pins"),
    ):
        capsys.readouterr()
        assert site.lock(*options) == 2
        assert what in "".join(capsys.readouterr())
    site.define("thing", pins="")
    capsys.readouterr()
    assert site.lock("--write-pins") == 2
    assert "Add `pins: d.pins.txt` to the set" in "".join(capsys.readouterr())
    assert not site.pins.exists()


def test_the_product_s_own_wheels_are_those_of_its_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`lock` for the installer itself is held to requirements/*.txt, bytes included, also while pins are written."""
    asked: dict[str, tuple[set[str], Pins, str]] = {}

    def resolve_set(work: Work, given: WheelSet, config: object, pins: Pins, **more: object) -> list[Artifact]:
        asked[given.name] = (set(given.requirements), pins, work.pinning)
        return []

    monkeypatch.setattr(wheels, "resolve_set", resolve_set)
    monkeypatch.setattr(own, "_build", lambda work: {n: _own(n) for n in ("appliance", "appliance-engine")})
    text = {"schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}}
    own.resolve(Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"), pinning="upgrade"))
    assert asked.keys() == {"control", "node"}
    for requirements, pins, pinning in asked.values():
        assert pinning == "obey"
        assert requirements == set(pins.constraints)
        assert {p.name for p in pins.by_name.values() if p.hashes} >= {"uv", "cryptography", "tuf"}


def _own(name: str) -> Artifact:
    return Artifact(
        path=f"installer/{name}.whl", kind="installer", name=name, version="1", size=1, sha256="0" * 64, source=f"build:{name}",
        profiles=("control",),
    )  # fmt: skip
