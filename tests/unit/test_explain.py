"""`appliance explain` tells of every key what the models that read the files accept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from engine.errors import InputError
from installer.cli.main import main
from installer.definition import Definition
from installer.explain import LEFT_OUT, Explanation, explain
from installer.explainpage import lines
from installer.site.settings import Site

# What the types say of their form; a key that says no more says nothing of its own meaning.
OF_TYPES = {
    "Lower-case letters, digits, dot, dash.",
    "Numbers with dots, for example 1.4.0 or 1.4.0-rc1.",
    "IP address.",
    "CIDR or address, for example 192.0.2.0/24.",
    "HH:MM in the node's local time.",
}


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type, and those in their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for inner in get_args(annotation):
        yield from models(inner)


def walk(found: Explanation) -> Iterator[Explanation]:
    yield found
    for key in found.keys:
        yield from walk(key)


@pytest.mark.parametrize("model", [Definition, Site])
def test_every_key_has_a_description_of_its_own(model: type[BaseModel]) -> None:
    seen = set(models(model))
    assert len(seen) > 10
    for one in seen:
        for name, field in one.model_fields.items():
            assert field.description, f"{one.__name__}.{name} has no description"
            assert field.description not in OF_TYPES, f"{one.__name__}.{name} says its form and not its meaning"


@pytest.mark.parametrize(("file", "model"), [("definition", Definition), ("site", Site)])
def test_the_tree_has_every_key_of_the_models(file: str, model: type[BaseModel]) -> None:
    told = {k.name for k in walk(explain(file, recursive=True))} - {file}
    assert told == {f.alias or n for m in models(model) for n, f in m.model_fields.items()}
    for key in walk(explain(file, recursive=True)):
        assert key.type and key.description, key.path
        if key.path != file:
            assert explain(key.path).type == key.type  # what the tree shows can be asked for


@pytest.mark.parametrize(
    ("path", "kind", "required", "default", "values", "limits"),
    [
        ("site.gateway.port", "whole number", False, 8443, (), ("1 to 65535",)),
        ("site.control.address", "text", True, LEFT_OUT, (), ()),
        ("site.egress.protocol", "text", False, "tcp", ("tcp", "udp"), ()),
        ("site.egress.ports", "list of whole numbers", True, LEFT_OUT, (), ("at least 1 entry", "each entry: 1 to 65535")),
        ("site.services", "list of mappings", False, [], (), ("at most 64 entries",)),
        ("site.services.args", "mapping from text to any value", False, {}, (), ()),
        ("site.services.0.model", "text", True, LEFT_OUT, (), ("matches ^[a-z0-9][a-z0-9.-]{0,62}$",)),
        ("site.zones.storage.networks", "list of text", False, [], (), ()),
        ("site.zones.*.networks", "list of text", False, [], (), ()),
        ("site.gpu_driver.maintenance.from", "text", True, LEFT_OUT, (), ("matches ^([01][0-9]|2[0-3]):[0-5][0-9]$",)),
        ("site.mig", "mapping", False, None, (), ()),
        ("site.gateway", "mapping", False, LEFT_OUT, (), ()),
        ("site.mig.layout.gpus", "text or list of whole numbers", False, "all", ("all",), ("each entry: 0 to 63",)),
        ("site.gate.throughput_share", "number", False, 0.8, (), ("at most 1", "more than 0")),
        ("definition.schema", "whole number", True, LEFT_OUT, (1,), ()),
        ("definition.models.accepted.on", "date", True, LEFT_OUT, (), ()),
        ("definition.wheels.profiles", "list of text", True, LEFT_OUT, ("gpu", "gateway", "monitoring", "control"), ("at least 1 entry",)),
    ],
)  # fmt: skip
def test_a_key_is_told_as_the_model_has_it(
    path: str, kind: str, required: bool, default: Any, values: tuple[Any, ...], limits: tuple[str, ...]
) -> None:
    found = explain(path)
    assert (found.type, found.required, found.default, found.values, found.limits) == (
        kind, required, default, values, limits,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "said", "remedy"),
    [
        ("site.gatewya", "site has no key 'gatewya' (did you mean gateway?)", "site has: control,"),
        ("definition.models.profile", "definition.models has no key 'profile' (did you mean profiles?)", "path"),
        ("site.gateway.port.low", "site.gateway.port has no key 'low'", "has no keys below it"),
        ("site.zones.netwrks", "(did you mean networks?)", "interfaces"),
        ("site.", "site has no key ''", "site has: control,"),
        ("sites.gateway", "no file is called 'sites' here (did you mean site?)", "definition, site"),
        ("", "no file is called ''", "definition, site"),
    ],
)
def test_an_unknown_path_is_one_error_with_the_key_that_was_meant(path: str, said: str, remedy: str) -> None:
    with pytest.raises(InputError) as error:
        explain(path)
    assert said in error.value.what and remedy in error.value.remedy and error.value.where == path


def test_text_names_what_a_person_needs() -> None:
    text = lines(explain("site.gateway"))
    assert text.splitlines()[0] == "site.gateway"
    assert "port  (whole number, default 8443)" in text and "Port that clients connect to." in text
    leaf = lines(explain("site.model_store.encryption.opened_by"))
    assert "default   none" in leaf and "allowed   none, tpm2, passphrase" in leaf
    tree = lines(explain("site", recursive=True), recursive=True)
    assert "\n      opened_by" not in tree and "\n        opened_by  (text, one of none tpm2 passphrase" in tree
    assert all(len(line) <= 110 for line in text.splitlines())


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["explain", "site.relay", "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    assert [k["path"] for k in found["keys"]] == ["site.relay.enabled", "site.relay.port"]
    assert found["keys"][1]["default"] == 7444 and "default" not in found
    with pytest.raises(SystemExit) as end:
        main(["explain", "site.relai", "--json"])
    assert end.value.code == 2
    assert "did you mean relay?" in json.loads(capsys.readouterr().out)["error"]["what"]
