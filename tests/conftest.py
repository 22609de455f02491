"""What whole-product tests share: one bundle, built once in a run by the product's own command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo import Demo, make_bundle


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo's bundle, locked and built from nothing; its keys and passphrase are fresh."""
    work = tmp_path_factory.mktemp("demo")
    made = Demo(work, work / "dist")
    make_bundle(made)
    return made


@pytest.fixture(scope="session")
def bundle(demo: Demo) -> Path:
    return demo.bundle
