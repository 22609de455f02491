"""The definitions for GPU sites that are there to be copied: their packages are found, one set, and fit the wheels and the example site."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from engine.blobs import Blobs
from engine.errors import InputError, TrustError
from engine.placement.choose import place
from engine.placement.model import Gpu, Node
from engine.trust import Target
from installer import lockfile, openpgp
from installer.compat.check import check, gather
from installer.compat.facts import Finding
from installer.definition import Definition
from installer.kinds import Work, debevidence, debs, pins
from installer.lockfile import Artifact
from installer.runtime.recipe import recipes
from installer.site import inventory, services, variables
from tests import facts, vendor
from tests.demo import TREE
from tests.integration import aptsite

KERNEL = "6.8.0-134-generic"
# Distributions' packages of both definitions that are no driver's: in the loopback archive of Ubuntu's shape all of them, empty.
INTERPRETER = {"libpython3.12-minimal", "libpython3.12-stdlib", "python3.12-minimal", "libpython3.12-dev"}
COMPILER = {"gcc", "binutils", "libc6-dev", "linux-libc-dev"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> aptsite.Key:
    return aptsite.make_key(tmp_path_factory.mktemp("keys") / "vendor", "Vendor")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, key: aptsite.Key) -> Iterator[dict[str, Any]]:
    """Sources for each definition, instead of those at the vendors."""
    place = tmp_path_factory.mktemp("archives")
    keyring = place / "vendor.asc"
    keyring.write_bytes(openpgp.public(key[0]))
    (fingerprint,) = openpgp.primary_keys(keyring.read_bytes())
    with ExitStack() as stack:
        nvidia = stack.enter_context(aptsite.serve(place / "nvidia/site", "127.0.0.2"))
        publish(nvidia, vendor.DEBIAN, key)
        ubuntu = stack.enter_context(aptsite.serve(place / "ubuntu/site", "127.0.0.3"))
        publish(ubuntu, [*vendor.ubuntu_driver(KERNEL), *vendor.TOOLS, *others()], key)
        signed = {"suites": ["./"], "signed_by": str(keyring), "fingerprints": [fingerprint]}
        debian = read("gpu-debian-13")["debs"]["sources"][0]
        assert debian["builders"]
        yield {
            "gpu-debian-13": [debian, {"uri": nvidia.url, **signed}],
            "gpu-ubuntu-24.04": [{"uri": ubuntu.url, **signed}],
        }


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TREE / f"bundles/{name}.yml").read_text())
    return found


def named(name: str) -> set[str]:
    return {p.partition("=")[0] for group in read(name)["debs"]["groups"] for p in group["packages"]}


def others() -> Iterable[vendor.Deb]:
    ours = {d.name for d in (*vendor.ubuntu_driver(KERNEL), *vendor.TOOLS)}
    brought = {"python3-dev": INTERPRETER, "g++": COMPILER}
    plain = named("gpu-ubuntu-24.04") - ours
    for name in sorted(plain | INTERPRETER | COMPILER):
        yield vendor.Deb(name, "1.0", ", ".join(sorted(brought.get(name, ()))))


def publish(site: aptsite.Site, packages: Iterable[vendor.Deb], key: aptsite.Key) -> None:
    for deb in packages:
        site.deb(deb.name, deb.version, depends=deb.depends)
    site.publish(key)


def locked(tmp_path: Path, name: str, sources: Sequence[Any], **change: Any) -> tuple[Definition, lockfile.Lock]:
    """The definition with other sources, its packages locked, and its wheels as its pins name them."""
    text = read(name)
    text["debs"]["sources"] = list(sources)
    for path, value in change.items():
        place, _, last = path.rpartition("__")
        at: Any = text
        for part in place.split("__"):
            at = at[part]
        at[last] = value
    found = debs.resolve(Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache")))
    if name == "gpu-debian-13" and "target__kernel" not in change:
        # Debian replaces kernels; which it has today is not this test's matter.
        (image,) = {m[1] for a in found if (m := re.fullmatch(r"linux-image-(\d.*)", a.name))}
        text["target"]["kernel"] = image
    definition = Definition.model_validate(text)
    wheels = [_wheel(n, v) for n, v in pinned(name).items()]
    return definition, lockfile.make(definition, [*found, *wheels])


def pinned(name: str) -> dict[str, str]:
    return {n: pin.version for n, pin in pins.load(TREE / f"bundles/{name}.pins.txt").by_name.items()}


def _wheel(name: str, version: str) -> Artifact:
    """Of a wheel that pins name: which platforms it is for is asked when the definition is locked, against an index."""
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return Artifact(
        path=f"wheels/vllm/{file}", kind="wheels", group="vllm", name=name, version=version, size=1, sha256="0" * 64, source="file:///x",
        profiles=("gpu",),
    )  # fmt: skip


def told(definition: Definition, lock: lockfile.Lock) -> list[Finding]:
    return list(check(gather(definition, lock, facts.TODAY)))


@pytest.mark.parametrize("name", ["gpu-debian-13", "gpu-ubuntu-24.04"])
def test_the_definition_is_one_set_that_fits_together(name: str, archives: dict[str, Any], tmp_path: Path) -> None:
    definition, lock = locked(tmp_path, name, archives[name])
    found = told(definition, lock)
    # FlashInfer's kernels are in no index; install switches it off.
    assert {f.rule for f in found} <= {"flashinfer-kernels"}, found
    have = {a.name: a.version for a in lock.of_kind("debs") if not debevidence.is_evidence(a)}
    assert named(name) <= set(have)
    driver = {
        n: v
        for n, v in have.items()
        if re.match(r"(nvidia-(driver|utils|compute|kernel|fabric|persist)|libnvidia|libcuda)", n)
    }
    assert len(driver) >= 6 and all(vendor.DRIVER in v for v in driver.values()), driver
    # The image gets the interpreter and the compiler out of these packages.
    (image,) = recipes(definition, lock)
    assert {"g++", "gcc", "binutils", f"libpython{definition.target.python}-dev"} <= {a.name for a in image.compiler}


@pytest.mark.parametrize("name", ["gpu-debian-13", "gpu-ubuntu-24.04"])
def test_its_pins_hold_what_it_requires_for_its_own_python(name: str) -> None:
    definition = Definition.model_validate(read(name))
    have = pinned(name)
    (wheels,) = definition.wheels
    for text in (*wheels.requirements, *wheels.constraints):
        wanted = Requirement(text)
        assert wanted.specifier.contains(have[wanted.name]), text
    assert wheels.pins == f"{name}.pins.txt"
    assert {"vllm", "torch", "triton", "ninja", "nvidia-cuda-nvcc"} <= set(have)


def test_a_driver_that_the_archive_has_moved_on_from_is_refused(archives: dict[str, Any], tmp_path: Path) -> None:
    """The archive has a newer one, too. Nothing but the exact versions of the definition keeps the set together."""
    text = read("gpu-debian-13")
    loose = [
        {**g, "packages": [p.partition("=")[0] if "fabric" in p else p for p in g["packages"]]} for g in text["debs"]["groups"]
    ]  # fmt: skip
    definition, lock = locked(tmp_path, "gpu-debian-13", archives["gpu-debian-13"], debs__groups=loose)
    found = [f for f in told(definition, lock) if f.severity == "failure"]
    assert any("nvidia-fabricmanager" in f.what and vendor.OTHER_DRIVER in f.what for f in found), found


def test_modules_for_another_kernel_are_refused(archives: dict[str, Any], tmp_path: Path) -> None:
    definition, lock = locked(
        tmp_path, "gpu-ubuntu-24.04", archives["gpu-ubuntu-24.04"], target__kernel="6.8.0-90-generic"
    )
    found = [f for f in told(definition, lock) if f.severity == "failure"]
    assert any("6.8.0-90-generic" in f.what for f in found), found


def test_a_key_that_the_definition_does_not_name_is_refused(archives: dict[str, Any], tmp_path: Path) -> None:
    debian, nvidia = archives["gpu-debian-13"]
    other = aptsite.make_key(tmp_path / "other", "Somebody else")
    keyring = tmp_path / "other.asc"
    keyring.write_bytes(openpgp.public(other[0]))
    nvidia = {**nvidia, "signed_by": str(keyring)}
    with pytest.raises(TrustError, match=r"holds the key [0-9A-F]{40}, which the definition does not name") as refused:
        locked(tmp_path, "gpu-debian-13", [debian, nvidia])
    assert "compare its fingerprint" in refused.value.remedy
    keyring.write_text("<html>404</html>\n")
    with pytest.raises(InputError, match="this is not a keyring"):
        locked(tmp_path, "gpu-debian-13", [debian, nvidia])


def test_the_example_site_fits_the_definition_and_two_nodes_of_eight_gpus() -> None:
    site = inventory.load(TREE / "inventories/gpu-example")
    definition = Definition.model_validate(read("gpu-debian-13"))
    driver, target = site.site.gpu_driver, definition.target
    assert driver and target.gpu
    assert (driver.version, driver.kernel) == (target.gpu.driver, target.kernel)
    assert {*driver.packages, driver.module_package, *driver.fabric} <= named("gpu-debian-13")
    assert {s.model for s in site.site.services} <= {m.name for m in definition.models}
    assert site.site.runtime in {w.name for w in definition.wheels}
    board = Node(
        tuple(Gpu(f"GPU-{i}", i, i, i // 4, 0) for i in range(8)), {0: tuple(range(16)), 1: tuple(range(16, 32))}
    )
    placed = {}
    for host in (h for h in site.nodes if "gpu" in h.groups):
        made = place([services.ask(r) for r in services.replicas(site.site, host)], board)
        assert not made.refused, made
        placed[host.name] = {p.name: len(p.gpus) for p in made.places}
    assert placed == {"gpu-1": {"chat": 4, "small": 1, "small-2": 1}, "gpu-2": {"chat": 4}}


@pytest.mark.parametrize(
    ("wheels", "off"),
    [
        (("flashinfer_python-0.7.2.post1-py3-none-any.whl",), True),
        (("flashinfer_python-0.7.2-py3-none-any.whl", "flashinfer_cubin-0.7.2-py3-none-any.whl"), True),
        (("flashinfer_python-0.7.2-py3-none-any.whl", "flashinfer_cubin-0.7.2-py3-none-any.whl", "flashinfer_jit_cache-0.7.2+cu130-x.whl"), False),
        (("torch-2.14.0-cp313-cp313-x.whl",), False),
    ],
)  # fmt: skip
def test_services_on_gpus_do_without_kernels_that_the_release_does_not_bring(wheels: Sequence[str], off: bool) -> None:
    site = inventory.load(TREE / "inventories/gpu-example")
    targets = {p: Target(p, 1, "0" * 64) for p in (f"content/wheels/vllm/{w}" for w in wheels)}
    told = variables.variables(site, "gpu-debian-13-1.0.0", targets)["appliance_services"]["gpu-1"]
    expected = variables.WITHOUT_FLASHINFER if off else {}
    assert [s["environment"] for s in told] == [expected] * 3
    first = site.site.services[0]
    own = first.model_copy(update={"environment": {"VLLM_USE_FLASHINFER_SAMPLER": "1"}})
    chosen = variables.served(site.nodes[1], site.site.model_copy(update={"services": (own,)}), "x", expected)
    assert chosen[0]["environment"] == {**expected, "VLLM_USE_FLASHINFER_SAMPLER": "1"}
    on_processors = own.model_copy(update={"devices": (), "gpus": None})
    (alone,) = variables.served(
        site.nodes[1], site.site.model_copy(update={"services": (on_processors,)}), "x", expected
    )
    assert alone["environment"] == own.environment
