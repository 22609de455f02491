"""FAT32 and exFAT as the kernel has them: what a medium says of itself there, and how content gets onto it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from engine.process import run
from installer import medium, product
from tests.guest import image
from tests.guest.machine import Guest

LOOK = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, "/root/code")
from engine import durable, placing
from engine.errors import ApplianceError
from installer import medium

def tried(what):
    try:
        return what()
    except ApplianceError as error:
        return error.what

told = {}
for place in (Path("/mnt/vfat"), Path("/mnt/exfat")):
    before = os.statvfs(place).f_bfree
    found = medium.ask(place / "not/there")
    data = b"x" * 3_000_000
    blob = Path("/root/blob")
    blob.write_bytes(data)
    about = hashlib.sha256(data).hexdigest(), len(data)
    told[place.name] = {
        "kind": found.kind, "links": found.links, "symlinks": found.symlinks, "refused": found.refused,
        "longest": found.longest, "sure": found.sure, "left": sorted(p.name for p in place.iterdir()),
        "taken": before - os.statvfs(place).f_bfree,
        "copied": placing.place(blob, place / "a/b", *about), "same": (place / "a/b").read_bytes() == data,
        "written": tried(lambda: durable.write(place / "c", "d")),
        "secret": tried(lambda: durable.write(place / "s", "d", mode=0o600)),
        "names": sorted(str(p.relative_to(place)) for p in place.rglob("*")),
    }
    with durable.together(place):
        durable.write(place / "e/f", "g")
print(json.dumps(told))
"""


@pytest.mark.nodes
@pytest.mark.slow
def test_the_kernel_s_own_fat_and_exfat_are_asked_and_written(tmp_path: Path) -> None:
    disks = []
    for kind, command in (("vfat", ["mkfs.vfat", "-F", "32"]), ("exfat", ["mkfs.exfat"])):
        disks.append(tmp_path / f"{kind}.img")
        with disks[-1].open("wb") as file:
            file.truncate(8 << 30)  # room for a file that FAT does not take; sparse
        run([*command, disks[-1]])
    code = tmp_path / "code.tar"
    with tarfile.open(code, "w") as tar:
        tree = product.PACKAGE.parent
        for part in ("engine", "installer/__init__.py", "installer/medium.py"):
            tar.add(tree / part, part)
    guest = Guest(image.ensure(kernel=image.WHOLE_KERNEL), tmp_path / "guest", disks=disks)
    with guest.running():
        guest.send(code, "mkdir /root/code && tar -x -C /root/code")
        for number, disk in enumerate(disks, 2):
            guest.ssh(
                f"mkdir /mnt/{disk.stem} && modprobe {disk.stem} && mount -t {disk.stem} /dev/nvme0n{number} /mnt/{disk.stem}"
            )
        told = json.loads(guest.ssh("python3 -", stdin=LOOK, timeout_s=300))
    for kind, found in told.items():
        assert found["kind"] == kind
        assert (found["links"], found["symlinks"], found["left"], found["taken"]) == (False, False, [], 0)
        assert set(medium.RESERVED) <= set(found["refused"])
        assert (found["copied"], found["same"], found["written"]) == (3_000_000, True, None)
        assert "keeps no permissions" in found["secret"]
        assert found["names"] == ["a", "a/b", "c"]
    assert (told["vfat"]["longest"], told["vfat"]["sure"]) == (medium.FAT_LONGEST, True)
    assert told["exfat"]["longest"] is None
