"""Import securesystemslib as if no cloud key service's library were installed.

It imports every one that it finds, and boto3 alone takes a quarter of a second: more than hashing half a gigabyte, at every
command of a control host that happens to have it. Our keys are files and PKCS#11 tokens. To be imported before tuf.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLOUDS = ("azure", "boto3", "google.cloud", "hvac")  # of securesystemslib 1.6, securesystemslib/signer/_*_signer.py


@contextmanager
def _hidden() -> Iterator[None]:
    """``None`` in ``sys.modules`` makes an import fail as if nothing were there (docs.python.org, The module cache)."""
    names = [n for n in CLOUDS if n not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # typeshed knows of modules only
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with _hidden():
    import securesystemslib.signer  # noqa: F401
