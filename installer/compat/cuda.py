"""CUDA: libraries against driver, compilers against libraries, machine code against GPUs, kernels against FlashInfer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from installer.compat.facts import Facts, Finding, Wheel, branch, dotted, public, release
from installer.compat.tables import BEFORE_OPEN, BRANCHES, BUILT_FOR, CUDA_NEEDS, FIRST_CUDA_WITHOUT_OLD, GPUS

NAMED = re.compile(r"-(?:cu|cuda)(1[1-9])x?(?:$|-)")
LOCAL = re.compile(r"^cu(1[1-9])(\d)$")
# What turns source or PTX into machine code; each writes PTX of its own version (CUDA Compatibility guide).
COMPILERS = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-nvjitlink", "nvidia-cuda-nvrtc")


def local(version: str) -> tuple[int, int] | None:
    """The toolkit in a local version: ``2.13.0+cu130`` is (13, 0)."""
    match = LOCAL.match(version.partition("+")[2])
    return (int(match[1]), int(match[2])) if match else None


def runtime(facts: Facts, group: str) -> tuple[int, ...]:
    """CUDA version of a set: (13, 0) from the runtime library or torch, (13,) where only names tell, () without CUDA."""
    wheels = [w for w in facts.wheels if w.group == group]
    for wheel in wheels:
        numbers = release(wheel.version)
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d\d)?", wheel.name) and len(numbers) >= 2 and numbers[0] >= 11:
            return numbers[:2]
    for wheel in wheels:
        if wheel.name == "torch" and (found := local(wheel.version)):
            return found
    majors = [int(match[1]) for w in wheels if (match := NAMED.search(w.name))]
    return (max(majors),) if majors else ()


def driver(facts: Facts) -> Iterator[Finding]:
    """The driver branch carries the CUDA major version, and is still supported."""
    gpu = facts.target.gpu
    for group in facts.groups:
        cuda = runtime(facts, group)
        if not cuda:
            continue
        if gpu is None:
            yield Finding(
                "cuda-driver", "warning",
                f"wheels/{group} holds CUDA {dotted(cuda)} libraries, but the definition names no GPU and no driver",
                "Add target.gpu with models and driver, so that they can be checked.",
            )  # fmt: skip
            continue
        need = CUDA_NEEDS.get(cuda[0])
        row = BRANCHES.get(branch(gpu.driver))
        if need is None:
            yield Finding(
                "cuda-driver", "warning", f"wheels/{group} holds CUDA {dotted(cuda)}, for which no lowest driver is known here",
                "Look it up in the CUDA Compatibility guide.",
            )  # fmt: skip
        elif branch(gpu.driver) < need:
            yield Finding(
                "cuda-driver", "failure",
                f"wheels/{group} holds CUDA {dotted(cuda)} libraries, which need a driver of branch {need} or newer; target.gpu.driver is {gpu.driver}",
                f"Take a driver of branch {need} or newer, or builds for a CUDA that branch {branch(gpu.driver)} carries.",
            )  # fmt: skip
        elif row and len(cuda) > 1 and cuda[:2] > row.cuda:
            yield Finding(
                "cuda-driver", "warning",
                f"wheels/{group} holds CUDA {dotted(cuda)}; branch {branch(gpu.driver)} carries {dotted(row.cuda)}. Machine code runs, but PTX that is compiled at run time does not load",
                "Take builds of the driver's own CUDA version, a newer branch, or the cuda-compat package.",
            )  # fmt: skip


def supported(facts: Facts) -> Iterator[Finding]:
    """The driver branch still gets fixes on the day of the check."""
    if not (gpu := facts.target.gpu):
        return
    number = branch(gpu.driver)
    row = BRANCHES.get(number)
    known = ", ".join(str(b) for b, r in sorted(BRANCHES.items()) if not r.ends or r.ends >= facts.today)
    if row is None:
        yield Finding(
            "driver-branch", "warning", f"driver branch {number} is not in the table of data center branches",
            f"Take one that is known here and not over: {known}.",
        )  # fmt: skip
    elif row.ends and row.ends < facts.today:
        yield Finding(
            "driver-branch", "warning", f"driver branch {number} ({row.designation}) got its last fixes in {row.ends:%B %Y}",
            f"Take one that is not over: {known}.",
        )  # fmt: skip


def skew(facts: Facts) -> Iterator[Finding]:
    """Compilers among the wheels are no newer than the libraries beside them, else their PTX does not load."""
    gpu = facts.target.gpu
    row = BRANCHES.get(branch(gpu.driver)) if gpu else None
    for group in facts.groups:
        cuda = runtime(facts, group)
        if len(cuda) < 2:
            continue
        newer = [
            (w, release(w.version)[:2])
            for name in COMPILERS
            if (w := facts.wheel(group, name)) and release(w.version)[:2] > cuda
        ]
        if not newer:
            continue
        names = ", ".join(f"{w.name} {w.version}" for w, _ in newer)
        top = max(v for _, v in newer)
        if row and row.cuda >= top:
            yield Finding(
                "cuda-toolchain", "warning",
                f"wheels/{group}: {names} beside a CUDA {dotted(cuda)} runtime; branch {branch(gpu.driver) if gpu else ''} can still load what they make",
                f"Constrain them to {dotted(cuda)} before the driver is ever changed.",
            )  # fmt: skip
            continue
        limit = f"<{cuda[0]}.{cuda[1] + 1}"
        yield Finding(
            "cuda-toolchain", "failure",
            f"wheels/{group}: {names} beside a CUDA {dotted(cuda)} runtime; a driver of that CUDA cannot load the PTX they make",
            "Add to the set's constraints: " + ", ".join(f"{w.name}{limit}" for w, _ in newer) + ".",
        )  # fmt: skip


def bindings(facts: Facts) -> Iterator[Finding]:
    """cuda-python and cuda-bindings of different versions carry the same files; the one installed last wins."""
    for group in facts.groups:
        python, bound = facts.wheel(group, "cuda-python"), facts.wheel(group, "cuda-bindings")
        if python and bound and release(python.version)[:2] != release(bound.version)[:2]:
            yield Finding(
                "cuda-bindings", "failure",
                f"wheels/{group}: cuda-python {python.version} and cuda-bindings {bound.version} both install cuda/bindings; which one stays is chance",
                f"Add to the set's constraints: cuda-python>={(release(bound.version) or (0,))[0]}.",
            )  # fmt: skip


def machine_code(facts: Facts) -> Iterator[Finding]:
    """The builds hold machine code for the GPUs: same major capability, and a minor one no newer than the GPU's."""
    gpu = facts.target.gpu
    for wheel in facts.wheels if gpu else ():
        built = BUILT_FOR.get((wheel.name, dotted(release(wheel.version)[:2])))
        if built is None or not gpu or not (set(runtime(facts, wheel.group)) - {0}):
            continue
        for model in gpu.models:
            known = GPUS.get(model)
            if known and not any(major == known.sm[0] and minor <= known.sm[1] for major, minor in built):
                yield Finding(
                    "gpu-code", "failure",
                    f"{wheel.name} {wheel.version} has no machine code for {model} (compute capability {dotted(known.sm)}); it is built for {', '.join(dotted(b) for b in sorted(built))}",
                    "Choose other GPUs, or a build that names this capability.",
                )  # fmt: skip


def dropped(facts: Facts) -> Iterator[Finding]:
    """The libraries of this CUDA still know the GPUs' architecture."""
    for group in facts.groups:
        cuda = runtime(facts, group)
        if not cuda or cuda[0] < FIRST_CUDA_WITHOUT_OLD:
            continue
        for model in facts.target.gpu.models if facts.target.gpu else ():
            if (known := GPUS.get(model)) and known.architecture in BEFORE_OPEN:
                yield Finding(
                    "gpu-cuda", "failure", f"wheels/{group} holds CUDA {dotted(cuda)}, whose libraries no longer know {model} ({known.architecture})",
                    f"Take builds of CUDA {FIRST_CUDA_WITHOUT_OLD - 1}, or newer GPUs.",
                )  # fmt: skip


def flashinfer(facts: Facts) -> Iterator[Finding]:
    """FlashInfer's kernels are in the set, of exactly its version and for the CUDA beside them."""
    for group in facts.groups:
        if not (core := facts.wheel(group, "flashinfer-python")):
            continue
        kernels = [
            w for w in facts.wheels
            if w.group == group and (w.name == "flashinfer-cubin" or w.name.startswith("flashinfer-jit-cache"))
        ]  # fmt: skip
        yield from _kernels_match(facts, core, kernels)
        missing = [
            n for n in ("flashinfer-cubin", "flashinfer-jit-cache") if not any(k.name.startswith(n) for k in kernels)
        ]
        if missing and _hopper_or_newer(facts):
            yield Finding(
                "flashinfer-kernels", "warning",
                f"wheels/{group}: flashinfer-python {core.version} without {' and '.join(missing)}: GPUs from Hopper on would download and compile kernels at first start, which fails inside, so `install` switches FlashInfer off (sampler, all-reduce, FP8): vLLM's own are slower with large batches",
                f"Add {' and '.join(missing)} at version {public(core.version)} under `direct`, from the project's release page; or leave it, and choose no attention backend of FlashInfer in args.",
            )  # fmt: skip


def _hopper_or_newer(facts: Facts) -> bool:
    """Whether some GPU has capability 9.0 or higher; one that is not known counts as such."""
    models = facts.target.gpu.models if facts.target.gpu else ("",)
    return any(m not in GPUS or GPUS[m].sm >= (9, 0) for m in models)


def _kernels_match(facts: Facts, core: Wheel, kernels: list[Wheel]) -> Iterator[Finding]:
    for kernel in kernels:
        if public(kernel.version) != public(core.version):
            yield Finding(
                "flashinfer-kernels", "failure",
                f"wheels/{core.group}: {kernel.name} {kernel.version} beside flashinfer-python {core.version}; FlashInfer refuses to start with kernels of another version",
                f"Take {kernel.name} {public(core.version)}, or pin flashinfer-python to the version of the kernels.",
            )  # fmt: skip
        cuda, made_for = runtime(facts, core.group), local(kernel.version)
        if cuda and made_for and made_for[0] != cuda[0]:
            yield Finding(
                "flashinfer-kernels", "failure",
                f"wheels/{core.group}: {kernel.name} {kernel.version} is built for CUDA {dotted(made_for)}, the set holds CUDA {dotted(cuda)}",
                f"Take the build whose name ends in +cu{cuda[0]}….",
            )  # fmt: skip
