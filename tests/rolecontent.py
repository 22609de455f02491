"""What roles find in a release, for their Molecule scenarios: an apt repository with packages' whole closure and doubles, and an OCI layout.

    python -m tests.rolecontent OUT --system debian-12 --packages podman,crun --doubles SPEC.json [--images]

The packages are Debian's own, resolved and fetched as a definition's are. A double is a package of a vendor whose archive
tests do not reach: same name, own version, files from beside its specification.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

from engine.blobs import Blobs
from engine.process import run
from installer.definition import Definition
from installer.kinds import Work
from tests.integration.registry import Layout
from tests.nodes.test_images import fetch_debs


def packages(work: Work, to: Path) -> dict[str, Path]:
    """The closure as files; those that a builder has fetched before come from its cache."""
    to.mkdir(parents=True, exist_ok=True)
    return fetch_debs(work, to)


def work_for(system: str, names: list[str], base: Path) -> Work:
    """A definition with these packages alone, for a system that need not be the builder's."""
    groups = {"groups": [{"packages": names, "profiles": ["gpu"]}]}
    sources = {} if system == "debian-12" else {"sources": [{"builders": True, "suites": ["trixie", "trixie-updates", "trixie-security"], "components": ["main"]}]}  # fmt: skip
    definition = {
        "schema": 1, "name": "roles", "version": "1.0", "target": {"os": system, "python": "3.11" if system == "debian-12" else "3.13"},
        "debs": {**sources, **groups},
    }  # fmt: skip
    return Work(Definition.model_validate(definition), base, Blobs(base / "cache"))


def double(spec: dict[str, object], beside: Path, scratch: Path, to: Path) -> None:
    """Build one package: ``control`` are its fields, ``files`` maps paths to files beside the specification or to text."""
    control = dict(spec["control"])  # type: ignore[call-overload]
    tree = scratch / f"{control['Package']}_{control['Version']}"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = {
        "Architecture": "amd64",
        "Maintainer": "tests <root@localhost>",
        "Description": "double for tests",
        **control,
    }
    (tree / "DEBIAN/control").write_text("".join(f"{k}: {v}\n" for k, v in fields.items()))
    for path, content in dict(spec.get("files", {})).items():  # type: ignore[call-overload]
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((beside / content["file"]).read_bytes() if "file" in content else content["text"].encode())
        target.chmod(int(content.get("mode", "0644"), 8))
    run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, to / f"{control['Package']}_{control['Version']}_amd64.deb"]
    )


def busybox(deb: Path, scratch: Path) -> bytes:
    """A layer with one static program, wherever the release keeps it."""
    run(["dpkg-deb", "--extract", deb, scratch])
    program = next(p for p in scratch.rglob("busybox") if p.is_file() and p.parent.name == "bin")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = program.stat().st_size, 0o755
        tar.addfile(entry, io.BytesIO(program.read_bytes()))
    return buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--system", default="debian-12")
    parser.add_argument("--packages", default="")
    parser.add_argument("--doubles", type=Path, action="append", default=[], help="may be repeated")
    parser.add_argument("--images", action="store_true", help="an OCI layout with the images web and other")
    options = parser.parse_args()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "debs").mkdir(parents=True)
    names = [n for n in options.packages.split(",") if n]
    found = packages(work_for(options.system, names, out / "work"), out / "debs") if names else {}
    told: dict[str, str] = {}
    if options.images:
        layer = busybox(found["busybox-static"], out / "work/busybox")
        layout = Layout(out / "images")
        for name in ("web", "other"):
            told[name] = str(layout.image(name, [layer, f"this is {name}\n"])["digest"])
    for file in options.doubles:
        for spec in json.loads(file.read_text()):
            double(spec, file.parent, out / "work/doubles", out / "debs")
    shutil.rmtree(out / "work", ignore_errors=True)
    (out / "debs/Packages").write_text(
        run(["apt-ftparchive", "packages", "."], cwd=out / "debs", package="apt-utils").stdout
    )
    (out / "digests.json").write_text(json.dumps(told))
    with tarfile.open(f"{out}.tar", "w") as tar:
        tar.add(out, ".")
    return 0


if __name__ == "__main__":
    sys.exit(main())
