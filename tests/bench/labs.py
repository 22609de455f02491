"""What a task of Ansible costs a node of the lab before its module begins."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import ansible

from installer.lab.rootfs import ONCE_COMPILED
from tests.bench.measure import Claim, Pair, command

CLAIMS = (Claim("lab-task", "s", "the same without what the lab keeps", 0.75),)
IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import ansible.module_utils.basic"
KEEPING = f"import zipimport; exec(open(sys.argv[2]).read().replace('/run/appliance-lab-compiled', sys.argv[3]), {{}}); {IMPORT}"


def pairs(work: Path, _only: str) -> Iterator[Pair]:
    """What every module imports, out of an archive as Ansible sends one."""
    source = Path(ansible.__file__).parent
    archive = work / "modules.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("ansible/__init__.py", "")
        for file in sorted((source / "module_utils").rglob("*.py")):
            made.write(file, Path("ansible") / file.relative_to(source))
    plain = command(sys.executable, "-c", IMPORT, str(archive))
    keeping = command(
        sys.executable, "-c", f"import sys; {KEEPING}", str(archive), str(ONCE_COMPILED), str(work / "kept")
    )
    yield Pair("lab-task", keeping, plain)
