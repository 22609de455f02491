"""Changes of a tenants file: the entry comes and goes, and every other character stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.errors import InputError
from engine.gateway import keys
from installer.site import inventory as inventories
from installer.site.tenants import edit, manage
from tests import tenantsite as lab

ENTRY = '{id: new, sha256: "00"}'
FORMS = {
    "none": "tenants:\n  - name: a # who\n    models: [m]  # what\n# end\n",
    "empty": "tenants:\n  - name: a\n    keys: []   # none yet\n    models: [m]\n",
    "nothing": "tenants:\n  - name: a\n    keys:   # none yet\n    models: [m]\n",
    "block": "tenants:\n  - name: a\n    keys:\n      # the first\n      - {id: old, sha256: '11'} # in use\n      # after it\n    models: [m]\n",
    "long": "tenants:\n  - name: a\n    keys:\n    - id: old\n      sha256: '11' # in use\n    # after it\n    models: [m]\n",
    "flow": "tenants:\n  - name: a\n    keys: [{id: old, sha256: '11'}]  # in use\n",
    "all flow": "tenants: [{name: a, models: [m]}, {name: b}]\n",
    "flow with keys": "tenants: [{name: a, keys: [], models: [m]}]\n",
    "last line": "tenants:\n  - name: a",
    "umlaut": "# Schlüssel für die Gäste\ntenants:\n  - name: a\n    keys: [] # ü\n",
    "name last": "tenants:\n  - models: [m]\n    name: a\n",
}  # fmt: skip


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_a_key_is_added_and_nothing_else_changes(text: str) -> None:
    before, after = yaml.safe_load(text), yaml.safe_load(edit.add_key(text, "a", ENTRY))
    assert after["tenants"][0].pop("keys") == [
        {"id": "new", "sha256": "00"},
        *(before["tenants"][0].pop("keys", None) or []),
    ]
    assert after == before
    for line in text.splitlines():
        assert line.partition("#")[2] in edit.add_key(text, "a", ENTRY)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_a_key_that_was_added_and_removed_leaves_what_was_there(text: str) -> None:
    after = edit.remove_key(edit.add_key(text, "a", ENTRY), "new")
    found, before = yaml.safe_load(after), yaml.safe_load(text)
    assert (found["tenants"][0].pop("keys", None) or []) == (before["tenants"][0].pop("keys", None) or [])
    assert found == before
    assert [c for c in text.split() if c.startswith("#")] == [c for c in after.split() if c.startswith("#")]


@pytest.mark.parametrize("form", ["block", "long", "flow"])
def test_the_only_key_is_removed_with_its_line_and_leaves_an_empty_list(form: str) -> None:
    after = edit.remove_key(FORMS[form], "old")
    assert yaml.safe_load(after)["tenants"][0]["keys"] == []
    assert "in use" not in after or form == "flow"


@pytest.mark.parametrize(("name", "left"), [("x", ["y", "z"]), ("y", ["x", "z"]), ("z", ["x", "y"])])
@pytest.mark.parametrize(
    "text",
    [
        "tenants:\n  - name: a\n    keys: [{id: x}, {id: y}, {id: z}]\n",
        "tenants:\n  - name: a\n    keys:\n      - {id: x}\n      - id: y\n      - {id: z}\n  - name: b\n",
    ],
)
def test_one_of_several_keys_is_removed(text: str, name: str, left: list[str]) -> None:
    assert [k["id"] for k in yaml.safe_load(edit.remove_key(text, name))["tenants"][0]["keys"]] == left


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no tenant 'c'"):
        edit.add_key(FORMS["all flow"], "c", ENTRY)
    with pytest.raises(InputError, match="no key 'c'") as caught:
        edit.remove_key(FORMS["block"], "c")
    assert "old" in caught.value.remedy


def test_a_new_key_is_in_the_file_as_a_hash_alone_and_comments_stay(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site")
    (place / "tenants.yml").chmod(0o640)
    one = manage.new_key(inventories.load(place), "team-a", "", 30)
    two = manage.new_key(inventories.load(place), "team-a", "", 90)
    assert (one.id, two.id) == ("team-a-1", "team-a-2")
    text = (place / "tenants.yml").read_text()
    assert one.text not in text
    assert keys.digest(one.text) in text
    assert "# none yet" in text and "# The other team." in text
    assert (place / "tenants.yml").stat().st_mode & 0o777 == 0o640
    found = inventories.load(place).tenants
    assert found is not None
    assert {k.id for k in found.configuration.tenants[0].keys} == {"team-a-1", "team-a-2"}
    assert manage.revoke_key(inventories.load(place), "team-a-1") == "team-a"
    assert keys.digest(one.text) not in (place / "tenants.yml").read_text()
    assert sorted(p.name for p in place.iterdir()) == ["group_vars", "hosts.yml", "tenants.yml"]


@pytest.mark.parametrize(
    ("tenant", "name", "days", "project", "said"),
    [
        ("team-c", "", 90, "", "no tenant 'team-c'"), ("team-a", "a-cert", 90, "", "used twice"), ("team-a", "", 91, "", "30 to 90 days"),
        ("team-a", "", 90, "ghost", "no project 'ghost'"), ("appliance-proof", "", 90, "", "install's own request"),
    ],
)  # fmt: skip
def test_a_key_that_would_not_be_accepted_changes_nothing(
    tenant: str, name: str, days: int, project: str, said: str, tmp_path: Path
) -> None:
    place = lab.write(tmp_path / "site")
    with pytest.raises(InputError, match=said):
        manage.new_key(inventories.load(place), tenant, name, days, project)
    assert (place / "tenants.yml").read_text() == lab.TENANTS
    assert sorted(p.name for p in place.iterdir()) == ["group_vars", "hosts.yml", "tenants.yml"]


def test_a_file_to_start_from_is_accepted_and_never_written_over(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site")
    (place / "tenants.yml").unlink()
    path = manage.start(place, "tenants.yml", "lab", "tiny")
    found = inventories.load(place).tenants
    assert found is not None
    assert found.configuration.site == "lab"
    with pytest.raises(InputError, match="already"):
        manage.start(place, "tenants.yml", "lab", "tiny")
    path.write_text(path.read_text().replace("tenants: []\n", "tenants:\n").replace("\n#  ", "\n  "))
    found = inventories.load(place).tenants
    assert found is not None
    assert found.configuration.tenants[0].name == "team-a"
    with pytest.raises(InputError, match="prefix"):
        manage.start(place, "other_tenants.yml", "Lab", "tiny")
