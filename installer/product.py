"""This product's own files: source tree, roles and playbooks."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ResourceError

PACKAGE = Path(__file__).resolve().parent


def source_tree() -> Path:
    """The checkout this code runs from.

    Raises:
        ResourceError: it runs from an installed wheel.
    """
    tree = PACKAGE.parent
    if not (tree / "pyproject.toml").is_file() or not (tree / "engine" / "pyproject.toml").is_file():
        raise ResourceError(
            "bundles are built from a checkout of appliance, not from an installed copy",
            remedy="Clone the repository on the builder and use its `./run`.",
        )
    return tree


def data(name: str) -> Path:
    """A directory that ships with the product (``roles`` or ``playbooks``), in a checkout or inside the wheel."""
    packaged = PACKAGE / "product" / name
    return packaged if packaged.is_dir() else PACKAGE.parent / name
