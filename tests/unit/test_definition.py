"""Every mistake in a definition is one message that names file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, Field

from engine.errors import InputError
from installer import definition, lockfile, yamlfile
from installer.definition import Definition
from installer.lockfile import Artifact

GOOD = """\
schema: 1
name: demo
version: 1.0.0
target:
  os: debian-12
  python: "3.11"
models:
  - name: tiny
    path: model
    profiles: [gpu]
  - name: big
    hub: org/model
    revision: 0123456789012345678901234567890123456789
    profiles: [gpu]
files:
  - name: a.txt
    url: file:a.txt
    sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    profiles: [gpu]
"""


def fault(tmp_path: Path, text: str) -> str:
    path = tmp_path / "d.yml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        definition.load(path)
    return str(error.value).replace(str(tmp_path) + "/", "")


def test_a_good_definition_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.yml"
    path.write_text(GOOD)
    assert definition.load(path).release == "demo-1.0.0"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: demo", "name: demo\ncolour: red", "d.yml:3: colour: unknown key"),
        ("os: debian-12", "os: debian-12\n  pyton: '3.11'", "target.pyton: unknown key (did you mean python?)"),
        ("    path: model\n", "    pth: model\n", "models.0.pth: unknown key (did you mean path?)"),
        ("name: demo", "nam: demo", "d.yml:1: name: required key is missing"),
        ("schema: 1", "schema: 2", "d.yml:1: schema: must be 1"),
        ("version: 1.0.0", "version: one", "d.yml:3: version: must match "),
        ("version: 1.0.0", "version: 1.0", "d.yml:3: version: must be text; put it in quotes"),
        ("os: debian-12", "os: plan9", "d.yml:5: target.os: must be "),
        ('python: "3.11"', 'python: "2.7"', "d.yml:6: target.python: must match "),
        ("name: big", "name: tiny", "d.yml:1: document: models: duplicate name 'tiny'"),
        ("name: demo", "name: demo\nname: demo", "d.yml:3: duplicate key 'name'"),
        ("    path: model\n", "", "give either path or hub"),
        ("    path: model\n", "    path: model\n    hub: org/model\n", "give either path or hub"),
        ("    revision: 0123456789012345678901234567890123456789\n", "", "a hub repository needs revision"),
        (
            "revision: 0123456789012345678901234567890123456789",
            "revision: main",
            "d.yml:13: models.1.revision: must match ",
        ),
        ("profiles: [gpu]\nfiles", "profiles: [cpu]\nfiles", "d.yml:14: models.1.profiles.0: must be "),
        (
            "profiles: [gpu]\nfiles",
            "profiles: []\nfiles",
            "d.yml:14: models.1.profiles: at least 1 entry is needed here, none is given",
        ),
        ("name: a.txt", "name: ../a.txt", "d.yml:16: files.0.name: must match "),
        ("sha256: a", "sha256: xa", "d.yml:18: files.0.sha256: must match "),
        ("name: demo", "name: [", "not valid YAML"),
        ("name: demo", "name: &x demo\ndescription: *x", "aliases"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in fault(tmp_path, GOOD.replace(old, new, 1))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("name: demo", "name: Demo!").replace("os: debian-12", "os: beos"))
    assert "d.yml:2: name" in text
    assert "d.yml:5: target.os" in text


def test_a_list_whose_entries_are_all_wrong_is_not_called_empty(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("profiles: [gpu]\nfiles", "profiles: [cpu]\nfiles", 1))
    assert "models.1.profiles.0: must be " in text and "is needed here" not in text


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        definition.load(tmp_path / "nothing.yml")


def parsed() -> Definition:
    return Definition.model_validate(yaml.safe_load(GOOD))


def artifact(path: str, content: str = "0", profile: str = "gpu") -> Artifact:
    return Artifact(
        path=path, kind="files", name=path, size=1, sha256=content * 64, source="file:x", profiles=(profile,)
    )


def test_a_lock_is_the_same_text_whatever_the_order_of_discovery() -> None:
    one = lockfile.make(parsed(), [artifact("files/b"), artifact("files/a")])
    two = lockfile.make(parsed(), [artifact("files/a"), artifact("files/b")])
    assert lockfile.dump(one) == lockfile.dump(two)


def test_a_lock_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    lock = lockfile.make(parsed(), [artifact("files/a")])
    path = tmp_path / "d.lock.yml"
    lockfile.save(path, lock)
    assert lockfile.load(path, parsed()) == lock


def test_one_artifact_for_two_profiles_stands_once_with_both() -> None:
    lock = lockfile.make(parsed(), [artifact("files/a", profile="gpu"), artifact("files/a", profile="gateway")])
    assert [a.profiles for a in lock.artifacts] == [("gateway", "gpu")]


def test_two_contents_for_one_path_are_refused() -> None:
    with pytest.raises(InputError, match="two different files"):
        lockfile.make(parsed(), [artifact("files/a", "0"), artifact("files/a", "1")])


def test_a_changed_definition_makes_its_lock_stale(tmp_path: Path) -> None:
    path = tmp_path / "d.lock.yml"
    lockfile.save(path, lockfile.make(parsed(), [artifact("files/a")]))
    changed = parsed().model_copy(update={"version": "1.0.1"})
    with pytest.raises(InputError, match="changed since it was locked"):
        lockfile.load(path, changed)


def test_a_missing_lock_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="appliance lock"):
        lockfile.load(tmp_path / "d.lock.yml", parsed())


class Few(BaseModel):
    """A model with one of each bound."""

    names: tuple[str, ...] = Field((), max_length=1)
    keys: list[str] = Field(["a", "b"], min_length=2)
    number: int = Field(1, ge=1, lt=9)
    shut: bool = False
    word: str = Field("ab", max_length=2)
    more: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [a, b]", "names: at most 1 entry is allowed here, 2 are given"),
        ("names: a", "names: must be a list"),
        ("keys: [a]", "keys: at least 2 entries are needed here, 1 is given"),
        ("number: 0", "number: must be at least 1"),
        ("number: 9", "number: must be less than 9"),
        ("number: many", "number: must be a whole number"),
        ("shut: maybe", "shut: must be true or false"),
        ("word: abc", "word: must have at most 2 characters"),
        ("more: []", "more: must be a mapping, keys with values"),
        ("- a", "document: must be a mapping, keys with values"),
    ],
)
def test_a_mistake_is_told_in_words_of_people_and_with_the_schema_it_breaks(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "few.yml"
    path.write_text(text)
    for schema, remedy in (("site", "`appliance schema site` prints what is allowed."), ("", "Correct it there.")):
        with pytest.raises(InputError) as error:
            yamlfile.parse(yamlfile.load(path), Few, schema=schema)
        assert error.value.what == f"{path}:1: {said}"
        assert error.value.remedy == remedy
