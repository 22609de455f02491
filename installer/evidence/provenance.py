"""``provenance/bundle.intoto.json``: SLSA v1 provenance in an in-toto Statement v1.

It claims what a lone builder may (build level 1); its signature is the bundle's own, like that of every target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from engine import durable
from installer.lockfile import Lock, Product

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:appliance:build:bundle:v1"
BUILDER = "urn:appliance:builder"


def write(lock: Lock, content: Path, *, builder: str = BUILDER, made: Mapping[str, str] | None = None) -> None:
    """Write the statement of ``lock`` and of what was ``made`` from it (path to SHA-256)."""
    text = (
        json.dumps(statement(lock, builder=builder, made=made or {}), indent=1, sort_keys=True, ensure_ascii=False)
        + "\n"
    )
    durable.write(content / "provenance" / "bundle.intoto.json", text)


def statement(lock: Lock, *, builder: str = BUILDER, made: Mapping[str, str] | None = None) -> dict[str, object]:
    """Subjects are all artifacts and what was made from them, dependencies the addresses they were locked from and the commit of the
    product's own wheels. Holds no time of day."""
    subjects = [(f"content/{a.path}", a.sha256) for a in lock.artifacts] + sorted((made or {}).items())
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": lock.name,
                    "version": lock.version,
                    "definition_sha256": lock.definition_sha256,
                },
                **_internal(lock.product),
                "resolvedDependencies": [
                    *({"uri": a.source, "name": a.path, "digest": {"sha256": a.sha256}} for a in lock.artifacts),
                    *_source(lock.product),
                ],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }


def _internal(product: Product | None) -> dict[str, object]:
    """What the builder's own state was; a lock of an earlier version does not say."""
    return {"internalParameters": {"product": product.model_dump(mode="json")}} if product else {}


def _source(product: Product | None) -> list[dict[str, object]]:
    """The commit that the product's own wheels were built from, with whatever was not as committed."""
    if product is None or not product.commit:
        return []
    about = {"annotations": {"changed": list(product.changed)}} if product.changed else {}
    return [{"name": "appliance", "digest": {"gitCommit": product.commit}, **about}]


def differences(told: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Names of the parts in which two statements differ: ``subject``, ``buildDefinition`` and the like."""
    one, other = ({**s, **p} if isinstance(p := s.get("predicate"), dict) else dict(s) for s in (told, expected))
    return sorted(k for k in {*one, *other} - {"predicate"} if one.get(k) != other.get(k))


def builder_of(told: Mapping[str, object]) -> str:
    """The URI of the builder that a statement names; empty when it has no such place."""
    place: object = told
    for key in ("predicate", "runDetails", "builder", "id"):
        if not isinstance(place, dict) or key not in place:
            return ""
        place = place[key]
    return str(place)
