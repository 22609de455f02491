"""What a container image says of its own contents and their licences, read from its layers as they stream by.

Packages come from the databases that dpkg, apk and pip leave behind (the last layer that has one is what runs), licence texts from
every layer: what a later one hides still travels. Nothing is unpacked to disk, and no name in a layer becomes a path.
"""

from __future__ import annotations

import email.parser
import posixpath
import re
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from engine import strictjson
from engine.errors import InputError, TrustError
from engine.report import printable
from installer import tarstream, unpack
from installer.evidence.texts import MAX_TEXT, Text
from installer.kinds import Work, imagelist, oci
from installer.kinds.wheels import licence_of
from installer.lockfile import Artifact, Lock

LABEL = "org.opencontainers.image.licenses"
MAX_DATABASE = 32 << 20  # bytes; a full desktop's dpkg status has about 6 MB
MAX_METADATA = 1 << 20  # bytes of one Python distribution's METADATA
MAX_TOTAL = 256 << 20  # bytes that are kept of one image
MAX_FILES = 100_000  # of one image that are kept
MAX_SAID = 200  # characters of a licence's name
WORKERS = 4  # decompression lets go of the interpreter lock
DPKG, DPKG_D, APK = "var/lib/dpkg/status", "var/lib/dpkg/status.d/", "lib/apk/db/installed"
RELEASE = ("etc/os-release", "usr/lib/os-release")
UNREAD = re.compile(r"^(var/lib/rpm|usr/lib/sysimage/rpm)/(rpmdb\.sqlite|Packages|Packages\.db)$")
TEXT = re.compile(r"^usr/share/(doc/[^/]+/copyright|licenses/[^/]+/[^/]+)$|^NGC-DL-CONTAINER-LICENSE$")
PYTHON = re.compile(r"(?:^|/)(?:site|dist)-packages/[^/]+\.dist-info/METADATA$")
DEP5 = re.compile(rb"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Package:
    """One package inside an image; ``type`` as package URLs have it: deb, apk or pypi."""

    type: str
    name: str
    version: str
    arch: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Inside:
    """An image's account of itself. ``unread`` names package databases that we have no reader for."""

    label: str = ""
    distribution: str = ""
    packages: tuple[Package, ...] = ()
    texts: tuple[Text, ...] = ()
    unread: tuple[str, ...] = ()


class Budget:
    """What may be kept of one image, however many layers share in it."""

    def __init__(self, size: int = MAX_TOTAL, files: int = MAX_FILES) -> None:
        self._size, self._files, self._lock = size, files, threading.Lock()

    def take(self, size: int) -> None:
        """Spend it.

        Raises:
            TrustError: there is no more.
        """
        with self._lock:
            self._size, self._files = self._size - size, self._files - 1
            if min(self._size, self._files) < 0:
                raise TrustError(
                    "its licence texts and lists of packages are larger than those of any honest image",
                    where="images",
                    remedy="Do not use the image.",
                )


@dataclass
class Layer:
    """What one layer holds of interest: content by path, and paths that it takes away."""

    files: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)


def read(lock: Lock, work: Work) -> dict[str, Inside]:
    """Every image of the lock by its name; of an image with several platforms all of them together.

    Raises:
        TrustError: a layer is damaged, or far more comes out of it than its size allows.
    """
    groups: dict[str, list[Artifact]] = {}
    for artifact in lock.of_kind("images"):
        groups.setdefault(artifact.group, []).append(artifact)
    return {name: _image(files, work) for name, files in sorted(groups.items())}


def _image(files: list[Artifact], work: Work) -> Inside:
    found = []
    sizes = {a.sha256: a.size for a in files}
    for artifact in files:
        document = _document(artifact, work)
        if document is None:
            continue
        if imagelist.UNREAD in artifact.notes and not oci.holds_files(document):
            work.report.say(f"image {artifact.name}: an attestation, not an archive of files; carried unread")
            continue
        inside = oci.contents(document)
        config = work.cache.path(inside.config.sha256).read_bytes() if inside.config.size <= oci.MAX_DOCUMENT else b""
        layers = [b.sha256 for b in inside.layers if b.sha256 in sizes]
        work.report.say(f"image {artifact.name}: reading licences and packages of {len(layers)} layers")
        found.append(combine(_layers(layers, work), label(config)))
    return Inside(
        " AND ".join(dict.fromkeys(f.label for f in found if f.label)),
        next((f.distribution for f in found if f.distribution), ""),
        tuple(sorted({p for f in found for p in f.packages})),
        tuple({t.data: t for f in found for t in f.texts}.values()),
        tuple(sorted({u for f in found for u in f.unread})),
    )


def _layers(hashes: list[str], work: Work) -> list[Layer]:
    budget = Budget()
    with ThreadPoolExecutor(WORKERS) as workers:
        return list(workers.map(lambda sha256: layer(sha256, work, budget), hashes))


def _document(artifact: Artifact, work: Work) -> bytes | None:
    """The artifact's bytes when it is a manifest, of an image or of what is said about one."""
    if artifact.size > oci.MAX_DOCUMENT:
        return None
    raw = work.cache.path(artifact.sha256).read_bytes()
    try:
        oci.contents(raw, attestation=True)
    except InputError:
        return None
    return raw


def layer(sha256: str, work: Work, budget: Budget) -> Layer:
    """Stream through one layer of the cache.

    Raises:
        TrustError: it is damaged, or too much comes out of it.
    """
    with unpack.opened(work.cache.path(sha256), where=f"image layer sha256:{sha256}") as stream:
        return look(tarstream.Reader(stream, f"image layer sha256:{sha256}"), budget)


def look(members: tarstream.Reader, budget: Budget) -> Layer:
    """Keep what is of interest among a layer's members."""
    made = Layer()
    for member in members:
        name = posixpath.normpath(member.name.lstrip("/"))
        head, base = posixpath.split(name)
        if base.startswith(".wh."):
            made.gone.add(head if base == ".wh..wh..opq" else posixpath.join(head, base.removeprefix(".wh.")))
        elif member.kind == "file" and UNREAD.match(name):
            made.unread.add(name)
        elif member.kind == "file" and member.size <= _limit(name):
            budget.take(member.size)
            made.files[name] = members.read(member.size)
    return made


def _limit(name: str) -> int:
    """Bytes of a file that are kept, by its path; -1 for what is of no interest."""
    if name in (DPKG, APK) or name.startswith(DPKG_D):
        return MAX_DATABASE
    if TEXT.match(name):
        return MAX_TEXT
    return MAX_METADATA if name in RELEASE or PYTHON.search(name) else -1


def label(config: bytes) -> str:
    """What the image's label says of its licences, as one line of plain text."""
    try:
        labels = strictjson.loads(config)["config"]["Labels"]
        return _plain(labels.get(LABEL) or "") if isinstance(labels, dict) else ""
    except (ValueError, KeyError, TypeError):
        return ""


def combine(layers: Iterable[Layer], said: str = "") -> Inside:
    """An image of layers, the lowest first. Pure."""
    now: dict[str, bytes] = {}
    texts: dict[bytes, Text] = {}
    unread: set[str] = set()
    for one in layers:
        for path in one.gone:
            now = {k: v for k, v in now.items() if k != path and not k.startswith(f"{path}/")}
        now |= one.files
        unread |= one.unread
        texts |= {data: Text(path, data) for path, data in one.files.items() if TEXT.match(path) and data.strip()}
    distribution = next((d for p in RELEASE if (d := _distribution(now.get(p, b"")))), "")
    packages = {*_debs(now), *_apks(now.get(APK, b"")), *_distributions(now)}
    return Inside(
        said, distribution, tuple(sorted(packages)),
        tuple(sorted(texts.values(), key=lambda t: (t.name, t.data))), tuple(sorted(unread)),
    )  # fmt: skip


def _debs(files: Mapping[str, bytes]) -> Iterable[Package]:
    """Installed packages by dpkg's status, or by the files that images without dpkg keep in its place."""
    databases = [data for path, data in files.items() if path == DPKG or path.startswith(DPKG_D)]
    for stanza in (s for data in databases for s in _stanzas(data, ":")):
        name, version = _plain(stanza.get("Package", "")), _plain(stanza.get("Version", ""))
        if (
            name
            and version
            and "deinstall" not in stanza.get("Status", "")
            and "config-files" not in stanza.get("Status", "")
        ):
            licence = _dep5(files.get(f"usr/share/doc/{name}/copyright", b""))
            yield Package("deb", name, version, _plain(stanza.get("Architecture", "")), licence)


def _apks(database: bytes) -> Iterable[Package]:
    for stanza in _stanzas(database, ":"):
        name, version = _plain(stanza.get("P", "")), _plain(stanza.get("V", ""))
        if name and version:
            yield Package("apk", name, version, _plain(stanza.get("A", "")), _plain(stanza.get("L", "")))


def _distributions(files: Mapping[str, bytes]) -> Iterable[Package]:
    for path, data in files.items():
        if not PYTHON.search(path):
            continue
        message = email.parser.BytesHeaderParser().parsebytes(data)
        name, version = (_plain(str(message.get(k) or "")) for k in ("Name", "Version"))
        if name and version:
            yield Package("pypi", name, version, "", _plain(licence_of(data)))


def _stanzas(data: bytes, colon: str) -> Iterable[dict[str, str]]:
    """Paragraphs of `Key: value` lines; lines that go on another are of no interest here."""
    stanza: dict[str, str] = {}
    for line in data.decode(errors="replace").splitlines():
        if not line.strip():
            yield stanza
            stanza = {}
        elif not line[0].isspace():
            key, _, value = line.partition(colon)
            stanza.setdefault(key, value.strip())
    yield stanza


def _dep5(copyright_: bytes) -> str:
    """The short names of a machine-readable copyright file (DEP-5), all of which hold; empty when it is prose."""
    if not re.match(rb"\s*Format(-Specification)?:", copyright_[:2000]):
        return ""
    names = {_plain(n.decode(errors="replace")) for n in DEP5.findall(copyright_)}
    return " AND ".join(sorted(n for n in names if n))[:MAX_SAID]


def _distribution(os_release: bytes) -> str:
    told = dict(
        re.findall(
            r'^(ID|VERSION_ID)="?([A-Za-z0-9._-]{1,40})"?\s*$', os_release.decode(errors="replace"), re.MULTILINE
        )
    )
    return "-".join(told[k] for k in ("ID", "VERSION_ID") if k in told)


def _plain(text: object) -> str:
    """One line that may be printed anywhere."""
    said = str(text).encode(errors="replace").decode()
    return printable(" ".join(said.split()), keep="")[:MAX_SAID]
