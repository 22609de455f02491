"""What lynis, OpenSCAP and the port of dev-sec's profiles say of a machine before and after the role os_baseline: the figures of docs/baseline.md.

    ./run demo          # or `appliance build bundle bundles/demo.yml`: packages that the role installs come from a bundle
    python -m tests.measure.hardening BUNDLE

A machine with a kernel of its own under software emulation, with /home and /var as file systems of their own, as whoever installs a
server makes them. Prints JSON lines; ends with 1 if a target is missed. Takes about 50 minutes, most of them lynis.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.process import run
from tests import devsec, judges, openscap
from tests.guest import image
from tests.guest.converge import bring_engine, converge
from tests.guest.machine import Guest

# What an installer leaves on a server and the small image of other tests lacks.
PACKAGES = ("ca-certificates", "cron", "grub2-common", "libpam-systemd", "linux-base", "python3-apt", "sudo")
# Of level 2: what cost nothing on such a machine.
ENABLE = ["accounts-tmp", "files-integrity", "files-unchanged", "kernel-usb-guard"]
SCORE, GAIN = 85, 20
DISK = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_guest_{}"
LYNIS = (
    "lynis audit system --quick --quiet --no-colors --report-file /root/lynis.dat --logfile /root/lynis.log 2>/dev/null"
)
ANY = tuple(range(256))


def main(argv: list[str]) -> int:
    """Measure; see the module's words."""
    parser = argparse.ArgumentParser(prog="python -m tests.measure.hardening", description="lynis, OpenSCAP and dev-sec before and after the baseline.")  # fmt: skip
    parser.add_argument("bundle", type=Path, help="a built bundle of bundles/demo.yml")
    parser.add_argument("--only", choices=["lynis", "openscap", "devsec"], help="one of the three judges")
    options = parser.parse_args(argv)
    debs = options.bundle / "content/debs"
    if not debs.is_dir():
        parser.error(f"{debs} is not there; build bundles/demo.yml first")
    with tempfile.TemporaryDirectory(prefix="appliance-hardening-") as scratch:
        return _measure(Path(scratch), debs, options.only)


def _measure(place: Path, debs: Path, only: str | None) -> int:
    disks = [_disk(place / "debs.img", 400, debs), _disk(place / "var.img", 1200), _disk(place / "home.img", 100)]
    guest = Guest(image.ensure(*PACKAGES, size=3 << 30), place / "guest", disks, memory_mib=2048, audit=True)
    with guest.running():
        _partition(guest)
    with guest.running():
        bring_engine(guest, place)
        openscap.pack(place / "judges.tar")
        guest.send(
            place / "judges.tar", "tar --extract --directory=/ --keep-directory-symlink --skip-old-files && ldconfig"
        )
        before = _judge(guest, only)
        _repository(guest)
        alice = {"name": "alice", "keys": [guest.image.key.with_suffix(".pub").read_text().strip()], "sudo": "nopasswd"}
        site = {"appliance_os_baseline_enable": ENABLE, "appliance_os_baseline_admins": [alice], "appliance_os_baseline_time_servers": ["10.0.2.2"],
                "appliance_os_baseline_confirm_timeout_s": 180}  # fmt: skip
        converge(guest, place, "os_baseline", site, timeout_s=1800)
    with guest.running():
        after = _judge(guest, only)
    good = True
    for judge in after:
        line = {"judge": judge, "before": before[judge], "after": after[judge]}
        if judge == "lynis":
            line |= {
                "score": SCORE,
                "gain": GAIN,
                "met": after[judge] >= SCORE and after[judge] - before[judge] >= GAIN,
            }
        else:
            line |= {"unwaived": after[judge]["unwaived"], "met": not after[judge]["unwaived"]}
        good &= bool(line["met"])
        print(json.dumps(line), flush=True)
    return 0 if good else 1


def _disk(file: Path, mib: int, tree: Path | None = None) -> Path:
    content: list[str | Path] = ["-d", tree] if tree else []
    run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", *content, file, f"{mib}m"], package="e2fsprogs", timeout_s=120)
    return file


def _partition(guest: Guest) -> None:
    """/var and /home move to disks of their own with the next start; the bundle's packages are shown below /srv."""
    guest.ssh(
        f"mkdir -p /srv/debs /mnt && mount {DISK.format(3)} /mnt && cp -a /var/. /mnt/ && umount /mnt && "
        f"printf '%s\\n' '{DISK.format(2)} /srv/debs ext4 ro,nodev,nosuid 0 0' '{DISK.format(3)} /var ext4 nodev,nosuid 0 0' "
        f"'{DISK.format(4)} /home ext4 nodev,nosuid 0 0' > /etc/fstab"
    )


def _repository(guest: Guest) -> None:
    """apt sees the bundle and nothing else, as after the role content."""
    guest.ssh(
        "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* && "
        "echo 'deb [signed-by=/srv/debs/appliance-archive.asc] file:/srv/debs ./' > /etc/appliance/apt/sources.list && "
        'printf \'Dir::Etc::sourcelist "/etc/appliance/apt/sources.list";\\nDir::Etc::sourceparts "-";\\n\' > /etc/appliance/apt.conf && '
        "APT_CONFIG=/etc/appliance/apt.conf apt-get --quiet update"
    )


def _judge(guest: Guest, only: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if only in (None, "openscap"):
        text = guest.ssh(f"PATH=$PATH:/usr/sbin {openscap.SCAN} 2>&1", ok=(0, 2), timeout_s=900)
        said["openscap"] = _counted(judges.judge(openscap.results(text), _waived(openscap.WAIVERS)))
    if only in (None, "devsec"):
        table = devsec.controls()
        facts = json.loads(guest.ssh("python3 -", stdin=devsec.program(table)))
        said["devsec"] = _counted(devsec.judge(facts, table, _waived(devsec.WAIVERS)))
    if only in (None, "lynis"):
        report = guest.ssh(f"{LYNIS}; cat /root/lynis.dat", ok=ANY, timeout_s=2400)
        found = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
        assert found, report[-2000:]
        said["lynis"] = int(found[1])
    return said


def _waived(file: Path) -> dict[str, str]:
    return judges.waived(file.read_text(), datetime.now(UTC).date())


def _counted(told: judges.Judgement) -> dict[str, Any]:
    return {**told.counts, "unwaived": told.unwaived, "waived_and_met": told.stale}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
