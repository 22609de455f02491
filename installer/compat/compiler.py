"""What wheels compile on a node at the first start, and what that needs of the node's packages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from installer.compat import cuda
from installer.compat.facts import Facts, Finding, Wheel

TRITON = ("triton", "triton-rocm", "pytorch-triton")
# vLLM compiles the model with torch.compile unless a service says enforce-eager; without Triton that is C++ for the processor.
COMPILED_BY_DEFAULT = re.compile(r"^vllm(-cpu)?$")


def at_first_start(facts: Facts) -> Iterator[Finding]:
    """Kernels that are compiled on the node have a compiler and Python's headers there. A warning: a service may do without.

    Read in Triton 3.9.0 (triton/runtime/build.py): every kernel gets a launcher in C, built with $CC, gcc or clang against Python.h;
    without a compiler it ends with "Failed to find C compiler". torch 2.13 on a processor: torch._inductor.cpp_builder, with g++.
    """
    for group in (g for g in facts.groups if g not in facts.compilers):
        wheels = [w for w in facts.wheels if w.group == group]
        triton = next((w for w in wheels if w.name in TRITON), None)
        server = next((w for w in wheels if COMPILED_BY_DEFAULT.match(w.name)), None)
        if triton:
            yield from _triton(facts, triton)
        elif server and any(w.name == "torch" for w in wheels) and not cuda.runtime(facts, group):
            yield from _processor(facts, server)


def _triton(facts: Facts, triton: Wheel) -> Iterator[Finding]:
    if missing := _missing(facts, triton, ("gcc", "clang")):
        yield Finding(
            "compiler", "warning",
            f"wheels/{triton.group}: {triton.name} {triton.version} builds the launchers of its kernels with a C compiler on the node, and the bundle brings no {' and no '.join(missing)} there: "
            "a service that meets such a kernel ends at its start ('Failed to find C compiler', or Python.h is missing)",
            "Put it into the runtime: `runtime: debs` and `compiler: true` on the set, and g++ and python3-dev under debs with its profiles. Or add "
            f"{' and '.join(missing)} under debs, and to appliance_vllm_packages of the site. enforce-eager alone does without only where vLLM uses no kernel written in Triton.",
        )  # fmt: skip


def _processor(facts: Facts, server: Wheel) -> Iterator[Finding]:
    if missing := _missing(facts, server, ("g++", "clang")):
        yield Finding(
            "compiler", "warning",
            f"wheels/{server.group}: {server.name} {server.version} compiles the model with torch on the node, and the bundle brings no {' and no '.join(missing)} there: a service without enforce-eager ends at its start",
            "Set enforce-eager: true in args of every service of the site; or put it into the runtime: `runtime: debs` and `compiler: true` on the set, "
            f"and g++ and python3-dev under debs with its profiles; or add {' and '.join(missing)} under debs, and to appliance_vllm_packages of the site.",
        )  # fmt: skip


def _missing(facts: Facts, wheel: Wheel, compilers: tuple[str, ...]) -> list[str]:
    """Packages that the nodes of this wheel do not get; the closure of python3-dev holds the headers under their own name."""
    names = {
        d.name for d in facts.debs if not d.profiles or not wheel.profiles or set(wheel.profiles) <= set(d.profiles)
    }
    headers = f"libpython{facts.target.python}-dev"
    return [
        *([] if names.intersection(compilers) else [compilers[0]]),
        *([] if headers in names else [headers]),
    ]
