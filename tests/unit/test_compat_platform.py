"""Wheels and packages against system, processor and Python; and all rules together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import InputError
from installer import definition as definitions
from installer import lockfile
from installer.cli.main import main
from installer.compat.check import check, gather, require
from installer.compat.facts import Deb, Facts, Wheel
from installer.compat.tables import GPUS
from installer.definition import Definition, Gpu, Target
from installer.lockfile import Artifact
from tests.facts import DRIVER, facts, found, one, swapped, wheel


def test_a_sound_site_gives_no_findings() -> None:
    assert check(facts()) == ()


@pytest.mark.parametrize(
    "tag",
    ["cp312-cp312-manylinux_2_39_x86_64", "py3-none-any", "cp39-abi3-manylinux1_x86_64", "cp312-cp312-linux_x86_64"],
)
def test_wheels_that_load_pass(tag: str) -> None:
    assert check(facts(wheels=swapped(wheel("thing", "1.0", tag)))) == ()


@pytest.mark.parametrize(
    ("tag", "rule", "words"),
    [
        ("cp312-cp312-manylinux_2_40_x86_64", "wheel-glibc", ["2.40", "2.39", "ubuntu-24.04"]),
        ("cp311-cp311-manylinux_2_28_x86_64", "wheel-python", ["cp311-cp311", "3.12"]),
        ("cp313-abi3-manylinux_2_28_x86_64", "wheel-python", ["cp313-abi3"]),
        ("cp312-cp312-manylinux_2_28_aarch64", "wheel-architecture", ["aarch64", "x86_64"]),
        ("cp312-cp312-musllinux_1_2_x86_64", "wheel-architecture", ["musllinux"]),
        ("cp312-cp312-macosx_11_0_arm64", "wheel-architecture", ["macosx"]),
    ],
)
def test_wheels_that_do_not_load_are_refused(tag: str, rule: str, words: list[str]) -> None:
    one(facts(wheels=swapped(wheel("thing", "1.0", tag))), rule, "failure", *words)


def test_packages_for_another_processor_are_refused() -> None:
    given = facts(debs=(*facts().debs, Deb("libc6", "2.39", "arm64")))
    one(given, "deb-architecture", "failure", "libc6:arm64", "amd64")


def test_another_python_than_the_systems_is_a_warning() -> None:
    one(facts(os="debian-12", wheels=(wheel("thing", "1.0"),)), "os-python", "warning", "3.11", "3.12")
    assert not found(facts(), "os-python")


TEXT = st.text(max_size=12)
NAMES = st.sampled_from(
    ["torch", "vllm", "nvidia-cuda-runtime", "nvidia-cuda-nvcc", "cuda-python", "cuda-bindings", "flashinfer-python",
     "flashinfer-cubin", "flashinfer-jit-cache-sm90a", "cupy-cuda12x", "x"]
) | TEXT  # fmt: skip
VERSIONS = st.sampled_from(["13.0.96", "2.13.0+cu130", "0", "13", "x", "1!2.0", f"{DRIVER}-1", "99.9.9+cu990"]) | TEXT
TAGS = st.tuples(TEXT, TEXT, st.sampled_from(["any", "manylinux_2_28_x86_64", "manylinux2014_aarch64"]) | TEXT)
WHEELS = st.builds(Wheel, st.sampled_from(["a", "b"]), NAMES, VERSIONS, st.lists(TAGS, max_size=2).map(tuple))
DEB_NAMES = st.sampled_from(
    ["dkms", "gcc", "nvidia-dkms-580-open", "nvidia-fabricmanager-580", "linux-modules-nvidia-580-server-open-6.8.0-1",
     "linux-headers-6.8.0-1", "libcuda1", "linux-image-6"]
) | TEXT  # fmt: skip
DEBS = st.builds(Deb, DEB_NAMES, VERSIONS, st.sampled_from(["amd64", "all"]) | TEXT)
DRIVERS = st.from_regex(r"\A[0-9]{3}\.[0-9]{1,3}(\.[0-9]{1,3})?\Z")
GPU = st.builds(
    Gpu,
    models=st.lists(st.sampled_from([*GPUS, "unknown"]), min_size=1, max_size=3).map(tuple),
    driver=st.sampled_from([DRIVER, "595.84", "620.70.06"]) | DRIVERS,
    kernel_modules=st.sampled_from(["open", "proprietary"]),
    module_source=st.sampled_from(["dkms", "prebuilt"]),
    secure_boot=st.sampled_from(["off", "mok", "signed"]),
    mig=st.lists(st.from_regex(r"\A[1-7]g\.[0-9]{1,3}gb([+-][a-z.]{1,12})?\Z"), max_size=8).map(tuple),
    nvswitch=st.none() | st.booleans(),
    fabric_manager=st.none() | DRIVERS,
)
TARGETS = st.builds(
    Target,
    os=st.sampled_from(["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]),
    arch=st.sampled_from(["x86_64", "aarch64"]),
    python=st.sampled_from(["3.11", "3.12", "3.19"]),
    kernel=st.none() | st.sampled_from(["6.8.0-1", "6.8.0-90-generic"]),
    gpu=st.none() | GPU,
)
DAYS = st.dates(date(2020, 1, 1), date(2040, 1, 1))


@settings(deadline=None)  # what is promised is an answer, not a time
@given(st.builds(Facts, TARGETS, st.lists(WHEELS, max_size=6).map(tuple), st.lists(DEBS, max_size=6).map(tuple), DAYS))
def test_no_rule_raises_whatever_it_is_given(anything: Facts) -> None:
    for finding in check(anything):
        assert finding.severity in ("failure", "warning")
        assert finding.what
        assert finding.remedy.endswith(".")


def definition(tmp_path: Path, artifacts: list[Artifact], **gpu: object) -> Path:
    """A definition with its lock on disk."""
    path = tmp_path / "d.yml"
    target = {"os": "ubuntu-24.04", "python": "3.12", "kernel": "6.8.0-90-generic", "gpu": gpu}
    path.write_text(yaml.safe_dump({"schema": 1, "name": "d", "version": "1.0.0", "target": target}))
    parsed = Definition.model_validate(yaml.safe_load(path.read_text()))
    lockfile.save(lockfile.path_of(path), lockfile.make(parsed, artifacts))
    return path


def locked(path: str, name: str, version: str) -> Artifact:
    return Artifact(
        path=path, kind="wheels", group="vllm", name=name, version=version, size=1, sha256="a" * 64, source="https://example.com/x",
        profiles=("gpu",),
    )  # fmt: skip


RUNTIME = locked(
    "wheels/vllm/nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl", "nvidia_cuda_runtime", "13.0.96"
)


def test_facts_come_from_the_lock_with_canonical_names(tmp_path: Path) -> None:
    path = definition(tmp_path, [RUNTIME, locked("wheels/vllm/odd.whl", "odd", "1")], models=["h200"], driver=DRIVER)
    parsed = Definition.model_validate(yaml.safe_load(path.read_text()))
    facts = gather(parsed, lockfile.load(lockfile.path_of(path), parsed), date(2026, 11, 21))
    assert facts.wheel("vllm", "nvidia-cuda-runtime") is not None
    assert [f.rule for f in check(facts) if "odd" in f.what] == ["wheel-name"]


def test_failures_are_refused_together_and_warnings_are_not(tmp_path: Path) -> None:
    bad = check(facts({"models": ["b200"], "driver": "535.247.01", "kernel_modules": "proprietary"}, debs=()))
    with pytest.raises(InputError) as error:
        require(bad, "d.yml")
    for rule in ("cuda-driver", "gpu-branch", "kernel-modules", "fabric-manager"):
        assert f"{rule}: " in str(error.value)
    assert "driver-branch" not in str(error.value)
    require([f for f in bad if f.severity == "warning"], "d.yml")


def test_the_command_shows_everything_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = definition(tmp_path, [RUNTIME], models=["h200"], driver="570.195.03")
    with pytest.raises(SystemExit) as end:
        main(["check", str(path), "--json"])
    assert end.value.code == 2
    said = json.loads(capsys.readouterr().out)
    assert not said["good"]
    assert {f["rule"] for f in said["findings"] if f["severity"] == "failure"} == {"cuda-driver", "fabric-manager"}
    with pytest.raises(SystemExit) as end:
        main(["check", str(path)])
    assert end.value.code == 2
    assert "choices cannot work together" in capsys.readouterr().err


def test_build_proves_the_lock_before_it_fetches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = definition(tmp_path, [RUNTIME], models=["h200"], driver="570.195.03")
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as end:
            main(["build", "bundle", str(path), "--dry-run", *options])
        assert end.value.code == 2
    said = capsys.readouterr()
    assert "error: " in said.err
    assert "cuda-driver: " in said.err
    assert {f["rule"] for f in json.loads(said.out)["findings"]} >= {"cuda-driver", "fabric-manager"}


def test_build_repeats_the_warnings_of_lock_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = definition(tmp_path, [RUNTIME], models=["h200"], driver=DRIVER, fabric_manager=DRIVER)
    with pytest.raises(SystemExit) as end:
        main(["build", "bundle", str(path), "--dry-run"])
    assert end.value.code == 0
    (finding,) = check(
        gather(parsed := definitions.load(path), lockfile.load(lockfile.path_of(path), parsed), date(2026, 11, 21))
    )
    said = capsys.readouterr().err
    assert said == f"warning: {finding.rule}: `appliance check {path}` says it in full\n"


def test_the_command_passes_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = definition(tmp_path, [RUNTIME], models=["h200"], driver=DRIVER, fabric_manager=DRIVER)
    with pytest.raises(SystemExit) as end:
        main(["check", str(path)])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "holds nothing that does not fit together, and its driver is unverified: 1 artifacts, 1 warnings" in said
    with pytest.raises(SystemExit):
        main(["check", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["good"] and not told["verified"]


def test_the_page_lists_every_rule_with_its_severities_and_every_gpu() -> None:
    tree = Path(__file__).resolve().parents[2]
    page = (tree / "docs" / "compatibility.md").read_text().partition("\n## Limits")[0]
    documented = {
        (name, severity.strip())
        for name, severities in re.findall(r"^\| ([a-z-]+) \| ([a-z, ]+) \|", page, re.MULTILINE)
        for severity in severities.split(",")
    }
    written = {
        (name, severity)
        for path in (tree / "installer" / "compat").glob("*.py")
        for name, severity in re.findall(r'Finding\(\s*"([a-z-]+)",\s*"([a-z]+)"', path.read_text())
    }
    assert written
    assert documented - {("rule", "severity")} == written
    names = re.search(r"Known models:\n(.*?)\. Another name", page, re.DOTALL)
    assert names
    assert [n.split(" (")[0].strip() for n in names[1].replace("\n", " ").split(",")] == list(GPUS)


def test_the_choices_of_a_shipped_definition_fit() -> None:
    """With the wheels of these tests; tests/integration/test_gpu_definitions.py has both, with their own packages and pins."""
    tree = Path(__file__).resolve().parents[2]
    shipped = definitions.load(tree / "bundles" / "gpu-ubuntu-24.04.yml")
    assert [
        f for f in check(Facts(shipped.target, facts().wheels, (), date(2026, 11, 21))) if f.severity == "failure"
    ] == []


def test_systems_that_cannot_run_what_nodes_run_are_refused_by_name() -> None:
    target = facts().target.model_copy(update={"os": "ubuntu-22.04"})
    one(
        replace(facts(), target=target),
        "os-support",
        "failure",
        "ubuntu-22.04 is not supported",
        "CPython is 3.10",
        "docs/platforms.md",
    )
    for name in ("rhel-9", "rocky-9", "AlmaLinux 9", "sles-15"):
        with pytest.raises(ValidationError, match=f"{name} is not supported: packages of nodes are Debian packages"):
            Definition.model_validate(
                {"schema": 1, "name": "d", "version": "1.0.0", "target": {"os": name, "python": "3.11"}}
            )
