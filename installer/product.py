"""This product's own files: checkout, roles and playbooks."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The tree of sources this code runs from; None where it runs from an installed wheel."""
    tree = PACKAGE.parent
    return tree if (tree / "pyproject.toml").is_file() and (tree / "engine" / "pyproject.toml").is_file() else None


def data(name: str) -> Path:
    """A directory that ships with the product (``roles``, ``playbooks``, ``inventories`` or ``requirements``), in a checkout or in the wheel."""
    packaged = PACKAGE / "product" / name
    return packaged if packaged.is_dir() else PACKAGE.parent / name
