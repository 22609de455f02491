"""Filters of the role pki."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from engine.rules import names


def pki_faults(given: Iterable[str], host: str, days: int, renew_before_days: int) -> list[str]:
    """Why a certificate for ``host`` with these names cannot be issued, each as one sentence with the remedy."""
    wrong = chain(names.certificate_names(given), names.renewal(int(days), int(renew_before_days)))
    return [f.sentence() for f in names.common_name(host)] + [f.sentence("appliance_pki_") for f in wrong]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"pki_faults": pki_faults}
