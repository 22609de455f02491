"""Facts for the tests of compatibility: one sound site, and ways to spoil it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from packaging.utils import parse_wheel_filename

from installer.compat.check import check
from installer.compat.facts import Deb, Facts, Finding, Wheel
from installer.definition import Target

TODAY = date(2026, 11, 21)
DRIVER = "580.178.04"
KERNEL = "6.8.0-90-generic"
GPU: dict[str, Any] = {"models": ["h200"], "driver": DRIVER, "fabric_manager": DRIVER}
X86 = "manylinux_2_28_x86_64"


def wheel(name: str, version: str, tag: str = "py3-none-any", group: str = "vllm") -> Wheel:
    """A wheel as its file name tells it."""
    filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    tags = parse_wheel_filename(filename)[3]
    return Wheel(group, name, version, tuple(sorted((t.interpreter, t.abi, t.platform) for t in tags)))


def deb(name: str, version: str = "1.0", arch: str = "amd64") -> Deb:
    return Deb(name, version, arch)


CLOSURE = (
    wheel("torch", "2.13.0", f"cp312-cp312-{X86}"),
    wheel("vllm", "0.32.0", f"cp38-abi3-{X86}"),
    wheel("triton", "3.8.0", f"cp312-cp312-{X86}"),
    wheel("nvidia-cuda-runtime", "13.0.96", "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64"),
    wheel("nvidia-cuda-nvcc", "13.0.88", "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64"),
    wheel("cuda-python", "13.4.4"),
    wheel("cuda-bindings", "13.4.4", f"cp312-cp312-manylinux_2_24_x86_64.{X86}"),
    wheel("flashinfer-python", "0.7.0.post1"),
    wheel("flashinfer-cubin", "0.7.0.post1"),
    wheel("flashinfer-jit-cache", "0.7.0.post1+cu130", f"cp39-abi3-{X86}"),
)
DEBS = (
    deb("libnvidia-compute-580", f"{DRIVER}-0ubuntu1"),
    deb("nvidia-dkms-580-open", f"{DRIVER}-0ubuntu1"),
    deb("nvidia-fabricmanager-580", f"{DRIVER}-1"),
    deb("libnvidia-nscq-580", f"{DRIVER}-1"),
    deb("nvidia-persistenced", "580.65.06-1"),
    deb("nvidia-container-toolkit-base", "1.20.0-1"),
    deb("nvidia-kernel-common", "20220217+3"),
    deb("dkms"),
    deb("gcc"),
    deb("make"),
    deb("libpython3.12-dev"),
    deb(f"linux-headers-{KERNEL}"),
    deb(f"linux-image-{KERNEL}"),
)


def facts(
    gpu: dict[str, Any] | None = GPU,
    *,
    wheels: tuple[Wheel, ...] = CLOSURE,
    debs: tuple[Deb, ...] = DEBS,
    **target: Any,
) -> Facts:
    told = {"os": "ubuntu-24.04", "arch": "x86_64", "python": "3.12", "kernel": KERNEL, "gpu": gpu, **target}
    return Facts(Target.model_validate(told), wheels, debs, TODAY)


def with_gpu(**changes: Any) -> Facts:
    """The sound site with another `target.gpu`."""
    return facts({**GPU, **changes})


def swapped(*new: Wheel) -> tuple[Wheel, ...]:
    """The closure with these wheels in the place of those of the same name, or added."""
    names = {w.name for w in new}
    return (*(w for w in CLOSURE if w.name not in names), *new)


def without(*names: str) -> Facts:
    """The sound site without some wheels or packages."""
    whole = facts()
    return replace(
        whole,
        wheels=tuple(w for w in whole.wheels if w.name not in names),
        debs=tuple(d for d in whole.debs if d.name not in names),
    )


def found(given: Facts, rule: str) -> list[Finding]:
    """What one rule says about a site."""
    return [f for f in check(given) if f.rule == rule]


def one(given: Facts, rule: str, severity: str, *words: str) -> Finding:
    """The one finding of a rule, which must have this severity and these words in it."""
    findings = found(given, rule)
    assert len(findings) == 1, check(given)
    assert findings[0].severity == severity
    text = f"{findings[0].what} {findings[0].remedy}"
    for word in words:
        assert word in text, text
    return findings[0]
