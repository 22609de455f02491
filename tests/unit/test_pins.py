"""A file of pins holds names, versions and hashes and nothing else; what is chosen must be in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.blobs import Blobs
from engine.errors import ApplianceError, InputError, UpstreamError
from installer import lockfile
from installer.definition import Definition, WheelSet
from installer.kinds import Pinning, Work, pins
from installer.lockfile import Artifact

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
TREE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Chosen:
    name: str
    version: str
    sha256: str


def parse(text: str) -> pins.Pins:
    return pins.parse(text.encode(), "x.pins.txt")


def test_versions_and_hashes_are_read_however_lines_are_broken() -> None:
    got = parse(
        f"# a comment\n\nThing==1.0 --hash=sha256:{A}\nother_one==2.0+cpu \\\n    --hash=sha256:{A} \\\n\t--hash=sha256:{B}\n    # via thing\n"
    )
    assert got.constraints == ("thing==1.0", "other-one==2.0+cpu")
    assert got.hashes("thing", "1.0") == got.hashes("Thing", "1") == {A}
    assert got.hashes("other.one", "2.0+cpu") == {A, B}
    assert got.hashes("thing", "1.1") == got.hashes("absent", "1.0") == frozenset()
    assert got.by_name["other-one"].line == 4


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--index-url http://127.0.0.1/simple", "is not NAME==VERSION"),
        ("--find-links /srv/wheels", "is not NAME==VERSION"),
        ("-r other.txt", "is not NAME==VERSION"),
        ("-e .", "is not NAME==VERSION"),
        ("thing @ http://user:secret@127.0.0.1/thing-1.0-py3-none-any.whl", "is not NAME==VERSION"),
        ("http://127.0.0.1/thing-1.0-py3-none-any.whl", "is not NAME==VERSION"),
        ("./thing-1.0-py3-none-any.whl", "is not NAME==VERSION"),
        (f"thing>=1.0 --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"thing==1.* --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"thing===1.0 --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"thing[extra]==1.0 --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"==1.0 --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"-thing==1.0 --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"thing==1..0 --hash=sha256:{A}", "is not a version"),
        (f"thing==1.0; python_version > '3' --hash=sha256:{A}", "is not NAME==VERSION"),
        (f"thing==1.0 ; python_version --hash=sha256:{A}", "is not --hash=sha256:"),
        (f"thing==1.0 --hash=sha256:{A} # why", "is not --hash=sha256:"),
        ("thing==1.0", "has no --hash"),
        ("thing==1.0 --hash=md5:" + "a" * 32, "is not --hash=sha256:"),
        (f"thing==1.0 --hash=sha256:{A[1:]}", "is not --hash=sha256:"),
        (f"thing==1.0 --hash=sha256:{A.upper()}", "is not --hash=sha256:"),
        (f"thing==1.0 --hash=sha256:{A}\\", "does not end"),
        (f"thing==1.0 --hash=sha256:{A}\r", "printable ASCII"),
        (f"thing==\uff11.0 --hash=sha256:{A}", "printable ASCII"),
        (f"thing==1.0 --hash=sha256:{A}\0", "printable ASCII"),
        ("\\", "does not end"),
        (f"good==2 --hash=sha256:{A}", "duplicate pin of good, first on line 1"),
        (f"GOOD==1 --hash=sha256:{A}", "duplicate pin of good, first on line 1"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_line(line: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        parse(f"good==1 --hash=sha256:{A}\n\n{line}" + ("" if line.endswith("\\") else "\n"))
    assert what in error.value.what
    assert error.value.where == "x.pins.txt:3"


@given(st.binary(max_size=200) | st.text("ab=1.-#\\ \n:" + "--hash=sha256:", max_size=200).map(str.encode))
def test_any_bytes_are_pins_or_an_error_of_the_input(raw: bytes) -> None:
    try:
        got = pins.parse(raw, "x")
    except InputError:
        return
    wheels = [Chosen(p.name, p.version, h) for p in got.by_name.values() for h in p.hashes]
    if len(wheels) == len(got.by_name):
        again = pins.parse(pins.render("s", wheels).encode(), "x")
        assert {(p.name, p.version, p.hashes) for p in again.by_name.values()} == {
            (p.name, p.version, p.hashes) for p in got.by_name.values()
        }


def test_a_large_file_a_directory_a_pipe_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * (pins.MAX_BYTES + 1))
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (
        ("large", "larger than"),
        ("directory", "not a regular"),
        ("pipe", "not a regular"),
        ("gone", "cannot read"),
    ):
        with pytest.raises(InputError, match=what) as error:
            pins.load(tmp_path / name)
        assert error.value.where == str(tmp_path / name)


def test_the_locks_of_this_repository_are_pins() -> None:
    for name in ("dev", "control", "node", "fuzz"):
        path = TREE / "requirements" / f"{name}.txt"
        assert len(pins.load(path).by_name) == path.read_text().count("==") > 0


PINNED = f"one==1.0 --hash=sha256:{A}\ntwo==2.0 --hash=sha256:{B}\n"


def test_other_bytes_another_version_and_what_is_not_pinned_are_named() -> None:
    got = parse(PINNED)
    pins.require(got, [Chosen("one", "1.0", A), Chosen("two", "2.0", B)], "app")
    with pytest.raises(UpstreamError) as changed:
        pins.require(got, [Chosen("one", "1.0", A), Chosen("two", "2.0", C)], "app")
    assert changed.value.where == "x.pins.txt:2"
    assert all(word in changed.value.what for word in ("app", "two 2.0", B[:12], C[:12]))
    with pytest.raises(UpstreamError, match=r"one is pinned to 1\.0, the source serves 1\.0\+local"):
        pins.require(got, [Chosen("one", "1.0+local", A)], "app")
    with pytest.raises(InputError, match=r"not pinned: new 3\.0 \(sha256:cccccccccccc"):
        pins.require(got, [Chosen("one", "1.0", A), Chosen("new", "3.0", C)], "app")


def test_many_problems_are_counted() -> None:
    with pytest.raises(InputError) as error:
        pins.require(parse(""), [Chosen(f"p{i}", "1", A) for i in range(20)], "app")
    assert "and 12 more" in error.value.what


def test_while_pins_are_written_versions_may_change_and_bytes_of_a_version_may_not() -> None:
    got = parse(PINNED)
    pins.require(got, [Chosen("one", "1.1", C), Chosen("new", "3.0", C)], "app", complete=False)
    with pytest.raises(UpstreamError, match=r"one 1\.0 is pinned to"):
        pins.require(got, [Chosen("one", "1.0", C)], "app", complete=False)


def test_pins_that_nothing_asked_for_are_named() -> None:
    assert pins.unneeded(parse(PINNED), [Chosen("one", "1.0", A)]) == "x.pins.txt: not needed: two 2.0"
    assert pins.unneeded(parse(PINNED), [Chosen("one", "1.0", A), Chosen("Two", "2.0", B)]) == ""


def work(tmp_path: Path, *sets: dict[str, object], pinning: Pinning = "obey") -> Work:
    wheels = [{"name": f"s{i}", "requirements": ["one"], "profiles": ["gpu"], **s} for i, s in enumerate(sets)]
    text = {
        "schema": 1,
        "name": "d",
        "version": "1.0.0",
        "target": {"os": "debian-12", "python": "3.11"},
        "wheels": wheels,
    }
    return Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"), pinning=pinning)


def lock(given: Work, *wheels: tuple[str, Chosen]) -> lockfile.Lock:
    artifacts = [
        Artifact(
            path=f"wheels/{group}/{w.name}.whl", kind="wheels", group=group, name=w.name, version=w.version, size=1,
            sha256=w.sha256, source="http://127.0.0.1/x", profiles=("gpu",),
        )
        for group, w in wheels
    ]  # fmt: skip
    return lockfile.make(given.definition, artifacts)


def test_each_set_gets_a_file_of_its_own_without_addresses(tmp_path: Path) -> None:
    given = work(tmp_path, {"pins": "a.txt"}, {"pins": "sub/b.txt"}, {}, pinning="keep")
    made = lock(
        given, ("s0", Chosen("one", "1.0", A)), ("s1", Chosen("two", "2.0", B)), ("s2", Chosen("three", "3", C))
    )
    assert pins.write(given, made) == [tmp_path / "a.txt", tmp_path / "sub/b.txt"]
    assert pins.load(tmp_path / "a.txt").constraints == ("one==1.0",)
    assert pins.load(tmp_path / "sub/b.txt").constraints == ("two==2.0",)
    assert "127.0.0.1" not in (tmp_path / "a.txt").read_text()
    assert pins.write(given, made) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "sub"]


def test_a_file_that_is_not_pins_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "d.yml").write_text("schema: 1\n")
    given = work(tmp_path, {"pins": "d.yml"}, pinning="keep")
    with pytest.raises(InputError, match="is not NAME==VERSION"):
        pins.of(given, given.definition.wheels[0])


def test_pins_to_come_are_empty_and_pins_to_obey_must_be_there(tmp_path: Path) -> None:
    given = work(tmp_path, {"pins": "a.txt"}, pinning="keep")
    got = pins.of(given, given.definition.wheels[0])
    assert got is not None and not got.by_name
    given = work(tmp_path, {"pins": "a.txt"})
    with pytest.raises(InputError, match="cannot read the pins") as error:
        pins.of(given, given.definition.wheels[0])
    assert "--write-pins" in error.value.remedy


def test_a_lock_older_than_the_pins_is_not_built(tmp_path: Path) -> None:
    given = work(tmp_path, {"pins": "a.txt"})
    (tmp_path / "a.txt").write_text(f"one==1.0 --hash=sha256:{A}\n")
    pins.require_locked(given, lock(given, ("s0", Chosen("one", "1.0", A))))
    for other in (Chosen("one", "1.0", B), Chosen("one", "1.1", A), Chosen("two", "1.0", A)):
        with pytest.raises(ApplianceError, match="locked and not pinned"):
            pins.require_locked(given, lock(given, ("s0", other)))


def test_two_sets_do_not_share_a_file_and_a_name_has_no_control_characters(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="two sets name the pins"):
        work(tmp_path, {"pins": "a.txt"}, {"pins": "./a.txt"})
    with pytest.raises(ValidationError):
        WheelSet(name="s", requirements=("one",), pins="a\nb", profiles=("gpu",))
