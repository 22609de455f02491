"""The published JSON Schemas, generated from the models that read the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from installer.definition import Definition
from installer.lockfile import Lock
from installer.site.settings import Site

SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "definition": Definition.model_json_schema,
    "lock": Lock.model_json_schema,
    "site": Site.model_json_schema,
}
