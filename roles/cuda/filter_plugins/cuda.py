"""Filters of the role cuda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.driver.names import upstream
from installer.compat import choice


def cuda_compat_faults(devices: Sequence[int], driver: str, package_version: str) -> list[str]:
    """Why the compatibility package of that Debian version must not stand beside the driver."""
    version = upstream(str(package_version))
    if not version:
        return [f"the version {package_version} of the compatibility package names no driver: take NVIDIA's package."]
    if not driver:
        return ["the site does not say which driver the compatibility package stands beside: add gpu_driver."]
    return list(choice.compat([int(d) for d in devices], str(driver), version))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"cuda_compat_faults": cuda_compat_faults}
