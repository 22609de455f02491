"""OpenSCAP's judgement of a node by ANSSI-BP-028, level intermediary, and our waivers of it.

    python -m tests.openscap pack tools.tar        what a Debian 12 node needs for a scan, from this host's own packages
    python -m tests.openscap judge results.txt     fails on what is neither met nor waived

Debian 12's own guide ends with Debian 11. The one of Debian 13 has both, and is data alone, so it is read with Debian 12's scanner.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from engine.process import run
from installer.lab import rootfs
from installer.lab.state import locked
from tests.demo import TREE
from tests.judges import judge, waived

WAIVERS = TREE / "roles/os_baseline/files/bp028-waivers.yml"
PROFILE = "xccdf_org.ssgproject.content_profile_anssi_bp28_intermediary"
GUIDE = Path("/srv/openscap/guide.xml")  # on the node
SCAN = f"oscap xccdf eval --profile {PROFILE} {GUIDE}"
GUIDES, GUIDE_RELEASE = "ssg-debian", "trixie"
TOOLS = ("openscap-scanner", "openscap-common", "libopenscap25", "lynis")


def results(text: str) -> dict[str, str]:
    """Rule to result, of what `oscap xccdf eval` prints."""
    pairs = re.findall(r"^Rule\s+\S*?rule_(\S+)$.*?^Result\s+(\S+)$", text, re.MULTILINE | re.DOTALL)
    return dict(pairs)


def guide() -> Path:
    """The data stream for Debian 12, fetched once from the builder's own mirror and kept beside the lab's roots.

    Raises:
        InputError, ProcessError: the mirror is not there, or does not have it.
    """
    made = rootfs.cache_dir() / f"{GUIDES}-{GUIDE_RELEASE}.xml"
    made.parent.mkdir(parents=True, exist_ok=True)
    with locked(made.with_name(f".{made.name}.lock")):
        if not made.exists():
            with tempfile.TemporaryDirectory() as scratch:
                _fetch(Path(scratch), made)
    return made


def _fetch(place: Path, target: Path) -> None:
    place.chmod(0o755)  # apt's own user reads it
    sources = rootfs.sources(rootfs.APT, platform.freedesktop_os_release()["VERSION_CODENAME"], GUIDE_RELEASE)
    (place / "debian.sources").write_text(sources)
    for name in ("lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    options = [f"Dir::Etc::sourcelist={place}/debian.sources", "Dir::Etc::sourceparts=-", f"Dir::State::lists={place}/lists",
               f"Dir::Cache={place}/cache", "APT::Sandbox::User=root"]  # fmt: skip
    apt = ["apt-get", "--quiet", *(word for option in options for word in ("-o", option))]
    run([*apt, "update"], timeout_s=300)
    run([*apt, "download", GUIDES], cwd=place, timeout_s=300)
    (package,) = place.glob("*.deb")
    run(["dpkg-deb", "--extract", package, place / "tree"])
    temporary = target.with_suffix(".tmp")
    shutil.copyfile(place / "tree/usr/share/xml/scap/ssg/content/ssg-debian12-ds.xml", temporary)
    temporary.rename(target)


def pack(archive: Path) -> None:
    """A tar of scanner, libraries, lynis and guide, as they lie on this host; a node of the same Debian can run them.

    The node's dpkg does not learn of them, so that neither tool finds the other as something installed.
    """
    files = {f for t in TOOLS for f in run(["dpkg", "--listfiles", t]).stdout.splitlines() if Path(f).is_file()}
    programs = ["/usr/bin/oscap", *(f for f in files if ".so" in f)]
    for line in run(["ldd", *programs], ok=(0, 1)).stdout.splitlines():
        if found := re.search(r"=> (/\S+)", line):
            files |= {found[1], str(Path(found[1]).resolve())}
    # /lib is /usr/lib; schemas of other systems are left out.
    places = {str(Path(f).parent.resolve() / Path(f).name) for f in files}
    kept = sorted(f for f in places if not re.search(r"/share/(doc|man|locale)/|/libc\.so|/ld-linux|windows", f))
    listing = "".join(f"{f}\n" for f in kept)
    run(["tar", "--create", "--dereference", "--absolute-names", f"--file={archive}", "--files-from=-"], stdin=listing, timeout_s=300)  # fmt: skip
    rename = f"--transform=s|^.*$|{GUIDE}|"
    run(["tar", "--append", "--absolute-names", f"--file={archive}", rename, guide()], timeout_s=300)


def main(argv: list[str]) -> int:
    """The command; see the module's words."""
    if argv[:1] == ["pack"]:
        pack(Path(argv[1]))
        return 0
    if argv[:1] == ["judge"]:
        told = judge(results(Path(argv[1]).read_text()), waived(WAIVERS.read_text(), datetime.now(UTC).date()))
        print(told.line())
        return 0 if told.good else 1
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
