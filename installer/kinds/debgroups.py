"""Groups of packages that one node gets together must fit together, as if they were one group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import get_args

from engine.errors import InputError
from installer.definition import DebGroup, Profile

PROFILES: tuple[str, ...] = get_args(Profile)


def require_together(groups: Sequence[DebGroup], resolve: Callable[[Sequence[str]], object]) -> None:
    """Resolve together what a node gets together: the groups of its profiles. A host may be in all groups of a site.

    Args:
        resolve: asks apt for these packages; raises InputError with apt's reason when there is no solution.

    Raises:
        InputError: groups conflict; names the smallest set of profiles whose groups do, and apt's reason.
    """
    if len(groups) < 2 or _together(groups, resolve) is None:  # what fits as a whole fits in every part
        return
    for profiles, chosen in _nodes(groups):
        if fault := _together(chosen, resolve):
            plural = "s" if len(profiles) > 1 else ""
            raise InputError(
                f"debs: the groups that a node with the profile{plural} {' and '.join(profiles)} gets cannot be installed together: {fault}",
                remedy="Choose packages that can be installed side by side; a host may be in several groups of a site.",
            )


def _nodes(groups: Sequence[DebGroup]) -> Iterator[tuple[tuple[str, ...], tuple[DebGroup, ...]]]:
    """Profiles that a node can have and its groups, fewest profiles first; each set of groups once."""
    seen: set[tuple[int, ...]] = set()
    for n in range(1, len(PROFILES) + 1):
        for profiles in combinations(PROFILES, n):
            chosen = tuple(i for i, group in enumerate(groups) if set(group.profiles) & set(profiles))
            if len(chosen) > 1 and chosen not in seen:
                seen.add(chosen)
                yield profiles, tuple(groups[i] for i in chosen)


def _together(groups: Sequence[DebGroup], resolve: Callable[[Sequence[str]], object]) -> str | None:
    """Why these groups cannot be installed side by side."""
    wanted = list(dict.fromkeys(p for group in groups for p in group.packages))
    versions: dict[str, str] = {}
    for name, _, version in (p.partition("=") for p in wanted):
        # apt would take the version that is named last.
        if version and versions.setdefault(name, version) != version:
            return f"{name} is asked for in the versions {versions[name]} and {version}"
    try:
        resolve(wanted)
    except InputError as error:
        return error.what.removeprefix("debs: ")
    return None
