"""Which packages belong to the driver, and what their versions say."""

from __future__ import annotations

import re

# Their own sources with their own numbers in Debian, although they look like driver versions; NVIDIA's subnet manager has
# numbers of its own everywhere.
ON_THEIR_OWN = frozenset({"nvidia-modprobe", "nvidia-persistenced", "nvidia-settings", "nvidia-xconfig", "nvlsm"})

# Globs of apt_preferences(5), and the same names for our own eyes.
GLOBS = (
    "cuda-drivers*", "firmware-nvidia-*", "glx-alternative-nvidia", "libcuda1*", "libcudadebugger1", "libnvcuvid1*", "libnvidia-*",
    "libnvoptix1*", "libnvsdm*", "nvidia-*", "nvlsm", "xserver-xorg-video-nvidia*", "linux-compiler-*", "linux-headers-*",
    "linux-image-*", "linux-kbuild-*", "linux-modules-nvidia-*", "linux-objects-nvidia-*", "linux-signatures-nvidia-*",
)  # fmt: skip
# NVIDIA's, but neither driver nor kernel: the container toolkit, CUDA's toolkit and MIG's tools go their own way.
OTHER_GLOBS = (
    "*nvidia-container*", "nvidia-cg-*", "nvidia-cuda-dev", "nvidia-cuda-doc", "nvidia-cuda-gdb", "nvidia-cuda-samples", "nvidia-cuda-toolkit*", "nvidia-docker*", "nvidia-mig-*", "nvidia-opencl-dev", "nvidia-profiler",
    "nvidia-visual-profiler",
)  # fmt: skip

KERNEL_IMAGE = re.compile(r"linux-image-(unsigned-)?\d.*")  # one kernel, and not the name for the newest

_UPSTREAM = re.compile(r"(?:^|:)(\d{3}\.\d{1,3}(?:\.\d{1,3})?)(?![\d.])")


def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(g).replace(r"\*", ".*") for g in globs))


_OURS, _OTHERS = _pattern(GLOBS), _pattern(OTHER_GLOBS)


def is_pinned(name: str) -> bool:
    """Whether a package is part of the set of driver and kernel that is pinned and held."""
    return _OURS.fullmatch(name) is not None and _OTHERS.fullmatch(name) is None


def upstream(deb_version: str) -> str:
    """The vendor's version in a Debian version: ``1:580.178.04-0ubuntu1`` gives ``580.178.04``; empty when it has none."""
    match = _UPSTREAM.search(deb_version)
    return match[1] if match else ""


def driver_version(name: str, deb_version: str) -> str:
    """The driver version that a package must share with the rest of the set; empty when it has numbers of its own."""
    return "" if name.startswith("linux-") or name in ON_THEIR_OWN else upstream(deb_version)
