"""Wheels by address: they join a set, must match what stands beside them, and are fetched again by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import InputError, TrustError, UpstreamError
from installer.compat.check import check, gather
from installer.definition import Definition
from installer.kinds import Work, wheels
from installer.lockfile import Artifact, make
from tests.facts import TODAY
from tests.integration.wheelsite import serve, wheel

CORE = "0.7.0.post1"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """What a project's release page offers: kernels of two versions."""
    released = tmp_path / "released"
    for version in (CORE, "0.6.13"):
        wheel(released, "flashinfer-cubin", version)
    wheel(released, "flashinfer-jit-cache", f"{CORE}+cu130", tag="cp39-abi3-manylinux_2_28_x86_64", requires=("torch",))
    wheel(released, "flashinfer-jit-cache", f"{CORE}+cu130", tag="cp39-abi3-manylinux_2_28_aarch64")
    with serve(released) as url:
        yield url


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """What the index offers: FlashInfer without its kernels."""
    folder = tmp_path / "index"
    wheel(folder, "flashinfer-python", CORE)
    wheel(folder, "torch", "2.13.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    wheel(folder, "nvidia-cuda-runtime", "13.0.96")
    return folder


def work(tmp_path: Path, index: Path, *direct: dict[str, str], **more: Any) -> Work:
    wheel_set = {
        "name": "app",
        "requirements": [f"flashinfer-python=={CORE}", "nvidia-cuda-runtime"],
        "direct": direct,
        "indexes": [(tmp_path / "empty").as_uri()],
        "find_links": [str(index)],
        "profiles": ["gpu"],
        **more,
    }
    (tmp_path / "empty").mkdir(exist_ok=True)
    target = {"os": "ubuntu-24.04", "python": "3.12"}
    text = {"schema": 1, "name": "d", "version": "1.0.0", "target": target, "wheels": [wheel_set]}
    return Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"))


def direct(site: str, tmp_path: Path, name: str) -> dict[str, str]:
    data = (tmp_path / "released" / name).read_bytes()
    return {"url": f"{site}/{name.replace('+', '%2B')}", "sha256": hashlib.sha256(data).hexdigest()}


def rules(given: Work, artifacts: list[Artifact]) -> dict[str, str]:
    facts = gather(given.definition, make(given.definition, artifacts), TODAY)
    return {f.rule: f.severity for f in check(facts)}


CUBIN = f"flashinfer_cubin-{CORE}-py3-none-any.whl"
JIT = f"flashinfer_jit_cache-{CORE}+cu130-cp39-abi3-manylinux_2_28_x86_64.whl"


def test_direct_wheels_join_the_set_with_what_they_need(site: str, tmp_path: Path, index: Path) -> None:
    given = work(tmp_path, index, direct(site, tmp_path, CUBIN), direct(site, tmp_path, JIT))
    artifacts = wheels.resolve(given)
    by_name = {a.name: a for a in artifacts}
    assert by_name["flashinfer-cubin"].source == f"{site}/{CUBIN}"
    assert by_name["flashinfer-jit-cache"].version == f"{CORE}+cu130"
    assert "torch" in by_name  # asked for by a direct wheel alone
    assert "flashinfer-kernels" not in rules(given, artifacts)


def test_direct_wheels_are_built_from_their_address_and_are_in_the_requirements(
    site: str, tmp_path: Path, index: Path
) -> None:
    given = work(tmp_path, index, direct(site, tmp_path, CUBIN), direct(site, tmp_path, JIT))
    artifacts = wheels.resolve(given)
    elsewhere = Work(given.definition, tmp_path, Blobs(tmp_path / "another-cache"))
    wheels.fetch(elsewhere, artifacts)
    wheels.check(elsewhere, artifacts)
    wheels.lay_out(elsewhere, artifacts, tmp_path / "content")
    text = (tmp_path / "content" / "wheels" / "app" / "requirements.txt").read_text()
    assert f"flashinfer-jit-cache=={CORE}+cu130 --hash=sha256:" in text
    assert (tmp_path / "content" / "wheels" / "app" / CUBIN).exists()


def test_kernels_of_another_version_fail_the_proof(site: str, tmp_path: Path, index: Path) -> None:
    given = work(tmp_path, index, direct(site, tmp_path, "flashinfer_cubin-0.6.13-py3-none-any.whl"))
    facts = gather(given.definition, make(given.definition, wheels.resolve(given)), TODAY)
    failure = next(f for f in check(facts) if f.severity == "failure")
    assert "0.6.13 beside flashinfer-python 0.7.0.post1" in failure.what


def test_other_bytes_than_the_definition_says_are_refused(site: str, tmp_path: Path, index: Path) -> None:
    with pytest.raises(TrustError) as error:
        wheels.resolve(work(tmp_path, index, {**direct(site, tmp_path, CUBIN), "sha256": "0" * 64}))
    assert CUBIN in str(error.value)


def test_a_wheel_that_is_gone_is_named(site: str, tmp_path: Path, index: Path) -> None:
    with pytest.raises(UpstreamError) as error:
        wheels.resolve(
            work(tmp_path, index, {"url": f"{site}/flashinfer_cubin-9.9-py3-none-any.whl", "sha256": "0" * 64})
        )
    assert "flashinfer_cubin-9.9" in str(error.value)


def test_a_direct_wheel_for_another_processor_is_refused(site: str, tmp_path: Path, index: Path) -> None:
    arm = JIT.replace("x86_64", "aarch64")
    with pytest.raises(InputError) as error:
        wheels.resolve(work(tmp_path, index, direct(site, tmp_path, arm)))
    assert "flashinfer-jit-cache" in str(error.value)


def test_an_address_that_is_no_wheels_name_is_refused(site: str, tmp_path: Path, index: Path) -> None:
    with pytest.raises(InputError) as error:
        wheels.resolve(work(tmp_path, index, {"url": f"{site}/kernels.whl", "sha256": "0" * 64}))
    assert "does not end in a wheel's name" in str(error.value)


def test_a_local_wheel_is_taken_relative_to_the_definition(site: str, tmp_path: Path, index: Path) -> None:
    local = {**direct(site, tmp_path, CUBIN), "url": f"file:released/{CUBIN}"}
    artifacts = {a.name: a for a in wheels.resolve(work(tmp_path, index, local))}
    assert artifacts["flashinfer-cubin"].source == (tmp_path / "released" / CUBIN).as_uri()
    with pytest.raises(InputError) as error:
        wheels.resolve(work(tmp_path, index, {**local, "url": f"file:nowhere/{CUBIN}"}))
    assert "no such file" in str(error.value)


def test_metadata_that_asks_for_another_python_is_refused(tmp_path: Path, index: Path) -> None:
    wheel(index, "late", "1.0", python=">=3.13")
    with pytest.raises(InputError) as error:
        wheels.resolve(work(tmp_path, index, requirements=["late"]))
    assert "3.13" in str(error.value)


def test_two_wheels_that_overwrite_each_other_are_refused_before_they_are_carried(tmp_path: Path, index: Path) -> None:
    wheel(index, "one", "1.0", files={"shared/core.py": "ONE = 1\n", "shared/same.py": "", "stray.py": "1\n"})
    wheel(index, "two", "2.0", files={"shared/core.py": "TWO = 22\n", "shared/same.py": "", "stray.py": "22\n"})
    given = work(tmp_path, index, requirements=["one", "two"])
    artifacts = wheels.resolve(given)
    wheels.fetch(given, artifacts)
    with pytest.raises(InputError) as error:
        wheels.check(given, artifacts)
    assert "one 1.0 and two 2.0 both install shared/core.py, and differ" in str(error.value)
    wheels.check(given, [a for a in artifacts if a.name == "one"])
