"""The gateway's configuration as files of the control host, for as long as playbooks need them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import durable
from installer.site.tenants.render import Rendered

FOLDER = "gateway"


@contextmanager
def placed(rendered: Rendered | None, run_dir: Path) -> Iterator[dict[str, str]]:
    """Write the files below ``run_dir``, readable by this user alone, and remove them at the end.

    Yields:
        The variable by which the role gateway finds them; nothing where the site has no tenants.
    """
    if rendered is None:
        yield {}
        return
    folder = run_dir / FOLDER
    try:
        folder.mkdir(mode=0o700)
        (folder / "jwks").mkdir(mode=0o700)
        durable.write(folder / "gateway.yml", rendered.text, mode=0o600)
        for name, raw in rendered.key_sets.items():
            durable.write(folder / "jwks" / name, raw, mode=0o600)
        yield {"appliance_gateway_folder": str(folder.resolve())}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
