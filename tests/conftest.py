"""What whole-product tests share: one bundle, built once in a run by the product's own command line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.demo import Demo, make_bundle

# The same examples in every run: a red test means a change broke something. Searching at random is `./run fuzz`.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The demo's bundle, locked and built from nothing; its keys and passphrase are fresh.

    Not below pytest's own directory, which is private: nodes and the depot's web server read from here.
    """
    work = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    try:
        made = Demo(work, work / "dist")
        make_bundle(made)
        yield made
    finally:
        shutil.rmtree(work)


@pytest.fixture(scope="session")
def bundle(demo: Demo) -> Path:
    return demo.bundle
