"""Which nodes need nothing: what counts as an input, and what a node must have said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.talk import Talk
from installer.site.inventory import Host, Inventory
from installer.site.nodes import ENGINE, Reply
from installer.site.nodes import understand as heard
from installer.site.settings import Site
from installer.site.unchanged import NodeNow, inputs, understand

HOSTS = (Host("a", "192.0.2.1", ("gpu",)), Host("b", "192.0.2.2", ("gateway",)))
TOLD: dict[str, Any] = {"release": "d-1", "generation": 2, "inputs": "x", "drift": []}


def site(**changes: Any) -> Inventory:
    plain = {"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.5"], **changes}
    variables = {h.name: {"ansible_host": h.address, "appliance_site": plain} for h in HOSTS}
    return Inventory(Path("site"), HOSTS, Site.model_validate(plain), {}, variables)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "view/metadata").mkdir(parents=True)
    (tmp_path / "view/metadata/targets.json").write_text("{}")
    (tmp_path / "ca").mkdir()
    return tmp_path / "view", tmp_path / "ca"


def test_how_a_change_walks_is_no_input_and_what_it_makes_is(places: tuple[Path, Path]) -> None:
    base = inputs(site(), {"x": 1}, *places)
    assert inputs(site(rolling={"batch": 5}, gate={"tokens": 64}, keep_generations=5), {"x": 1}, *places) == base
    assert all(v != base[k] for k, v in inputs(site(inference_port=9000), {"x": 1}, *places).items())
    assert inputs(site(), {"x": 2}, *places) != base


def test_release_authority_neighbours_and_own_variables_are_inputs(places: tuple[Path, Path]) -> None:
    view, ca = places
    base = inputs(site(), {}, view, ca)
    (ca / "crl.pem").write_text("a revocation")
    revoked = inputs(site(), {}, view, ca)
    (view / "metadata/targets.json").write_text('{"v": 2}')
    newer = inputs(site(), {}, view, ca)
    moved = inputs(replace(site(), hosts=(HOSTS[0], replace(HOSTS[1], address="192.0.2.9"))), {}, view, ca)
    assert len({d["a"] for d in (base, revoked, newer, moved)}) == 4
    named = site()
    own = {**named.variables, "a": {**named.variables["a"], "appliance_names": ["x"]}}
    one = inputs(replace(named, variables=own), {}, view, ca)
    assert one["a"] != newer["a"] and one["b"] == newer["b"]


@pytest.mark.parametrize(
    ("told", "idle"),
    [
        (TOLD, True), ({**TOLD, "drift": ["moved"]}, False), ({**TOLD, "release": "d-0"}, False), ({**TOLD, "inputs": "y"}, False),
        ({**TOLD, "generation": 0}, False), ({"release": "d-1"}, False), ({**TOLD, "generation": "many"}, False), (None, False),
    ],
)  # fmt: skip
def test_only_a_whole_and_fitting_answer_lets_a_node_be(told: dict[str, Any] | None, idle: bool) -> None:
    now = understand("a", Reply(told, "" if told else "it cannot be reached: no route"))
    assert now.needs_nothing("d-1", "x") is idle


def test_a_node_that_was_never_installed_needs_everything() -> None:
    assert not NodeNow("a").needs_nothing("", "")


@pytest.mark.parametrize(
    ("code", "stderr", "new"),
    [
        (127, f"bash: line 1: {ENGINE}: No such file or directory\n", True),
        (127, f"sh: 1: {ENGINE}: not found\n", True),
        (1, f"sudo: {ENGINE}: command not found\n", True),
        (1, "ModuleNotFoundError: No module named 'cryptography'\n", False),
        (126, f"bash: line 1: {ENGINE}: Permission denied\n", False),
        (255, "ssh: connect to host 192.0.2.1 port 22: No route to host\n", False),
    ],
)
def test_only_a_node_without_an_engine_is_new(code: int, stderr: str, new: bool) -> None:
    """What is broken, or does not answer, may have seen a newer release."""
    assert understand("a", heard(Talk(code, (), stderr, ""))).new is new
