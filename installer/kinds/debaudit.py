"""The vendor's word for every package: signature, signed index, package, hash by hash.

The chain needs nothing but files: a keyring, the vendor's `InRelease` (or `Release` and `Release.gpg`), the compressed
`Packages` indexes it lists, and the packages. SHA-256 all the way; signatures over weaker digests do not count.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import inputfile
from engine.bounds import Bounds
from engine.errors import InputError, TrustError
from engine.process import run
from installer import unpack

EVIDENCE = "evidence/"  # below debs/
POOL = "pool/"
SIGNED = ("InRelease", "Release", "Release.gpg")
WEAK_DIGESTS = frozenset({"1", "2", "3"})  # RFC 9580, 9.5: MD5, SHA-1, RIPEMD-160
MAX_KEYRING = 16 << 20  # bytes
MAX_RELEASE = 16 << 20  # bytes
GPG = Bounds(memory=1 << 30, file=2 * MAX_RELEASE, time_s=300.0)
MAX_INDEX = 1 << 30  # bytes, decompressed; Debian's main is 57 MB
MAX_LINE = 1 << 20  # bytes


@dataclass(frozen=True)
class Vouched:
    """A source that vouches for ``packages`` of the packages; ``signers`` are fingerprints of primary keys."""

    source: str
    date: str
    signers: tuple[str, ...]
    indexes: tuple[str, ...]
    packages: int


def files_of(bundle: Path) -> dict[str, Path]:
    """The files below ``content/debs`` of a bundle.

    Raises:
        InputError: it has no packages.
        TrustError: something there is a link.
    """
    top = bundle / "content/debs"
    if not top.is_dir():
        raise InputError("the bundle has no packages", where=str(top), remedy="Name the directory NAME-VERSION.")
    paths = sorted(top.rglob("*"))
    for path in paths:
        if path.is_symlink():
            raise TrustError("a bundle has no links", where=str(path), remedy="Copy the bundle again from its source.")
    return {str(p.relative_to(top)): p for p in paths if p.is_file()}


def audit(files: Mapping[str, Path], keyrings: Sequence[Path] = ()) -> list[Vouched]:
    """Check that a vendor signed for every package in the pool.

    Args:
        files: path below ``debs/`` to file; what is neither in the pool nor evidence is not looked at.
        keyrings: instead of those in the evidence, for who trusts no keyring of the bundle.

    Raises:
        TrustError: names the package, index or signature that does not fit.
        InputError: there is no evidence.
    """
    debs = {name: path for name, path in files.items() if name.startswith(POOL)}
    slugs = sorted({n.split("/")[1] for n in files if n.startswith(EVIDENCE) and n.count("/") > 1})
    if not slugs:
        raise InputError("there is no evidence of vendors here", remedy="Lock and build the bundle again.")
    hashes = {name: _sha256(path) for name, path in debs.items()}
    wanted = set(hashes.values())
    vouched: dict[str, str] = {}  # SHA-256: file name as the index's fields spell it
    found: list[tuple[str, str, tuple[str, ...], tuple[str, ...], set[str]]] = []
    for slug in slugs:
        parts = {
            n.removeprefix(f"{EVIDENCE}{slug}/"): p for n, p in files.items() if n.startswith(f"{EVIDENCE}{slug}/")
        }
        text, signers = _signed(slug, parts, keyrings)
        listed = hashes_of(text)
        indexes = sorted(n for n in parts if n not in SIGNED and not n.startswith("keyring."))
        ours: dict[str, str] = {}
        for index in indexes:
            if listed.get(index) != (_sha256(parts[index]), parts[index].stat().st_size):
                raise TrustError(
                    "the index is not the one that the vendor signed",
                    where=f"{EVIDENCE}{slug}/{index}",
                    remedy="Do not use the packages; copy the bundle again from its source.",
                )
            _, size = listed.get(index.removesuffix(".xz").removesuffix(".gz"), ("", None))
            ours |= packages_of(parts[index], wanted, size)
        vouched |= ours
        found.append((slug, field(text, "Date"), signers, tuple(indexes), set(ours)))
    for name, sha256 in sorted(hashes.items()):
        told = vouched.get(sha256)
        if told != name.removeprefix(POOL):
            said = f"the vendor calls this content {told}" if told else f"no vendor signed for SHA-256 {sha256}"
            raise TrustError(
                said, where=f"debs/{name}", remedy="Do not install it; copy the bundle again and check it."
            )
    return [Vouched(s, d, k, i, sum(h in o for h in hashes.values())) for s, d, k, i, o in found]


def verified(keyring: Path, release: Path, signature: Path | None) -> tuple[str, tuple[str, ...]] | None:
    """The signed text and the primary keys that signed it, or None when none of ``keyring`` did.

    Args:
        signature: detached; None when ``release`` is clear-signed.
    """
    if release.stat().st_size > MAX_RELEASE:
        return None
    with tempfile.TemporaryDirectory(prefix="appliance-gpgv-") as home:
        binary, text = Path(home, "keyring.gpg"), Path(home, "text")
        data = inputfile.read(keyring, MAX_KEYRING, "the keyring")
        if data.lstrip().startswith(b"-----BEGIN"):
            run(
                ["gpg", "--homedir", home, "--batch", "--quiet", "--output", binary, "--dearmor", keyring],
                inherit=False,
                package="gnupg",
                bounds=GPG,
            )
        else:
            binary.write_bytes(data)
        base: list[str | Path] = ["gpgv", "--homedir", home, "--status-fd", "1", "--keyring", binary]
        what = [signature, release] if signature else ["--output", text, release]
        # Keys the keyring lacks make gpgv fail although others signed as well; the status lines tell them apart.
        status = run([*base, *what], ok=(0, 1, 2), inherit=False, package="gpgv", bounds=GPG).stdout
        by = signers(status)
        plain = release if signature else text
        if not by or not plain.is_file():
            return None
        return plain.read_text(errors="replace"), by


def signers(status: str) -> tuple[str, ...]:
    """Fingerprints of the primary keys that signed well, from gpgv's status lines; none at all if one signature is bad.

    A vendor signs with several keys. One that has expired, is revoked or is not in the keyring does not count, nor does
    a signature over a weak digest.
    """
    found: set[str] = set()
    good = False
    for line in status.splitlines():
        words = line.removeprefix("[GNUPG:] ").split()
        match words[:1]:
            case ["BADSIG"]:
                return ()
            case ["NEWSIG"]:
                good = False
            case ["GOODSIG"]:
                good = True
            case ["VALIDSIG"] if good and len(words) > 10 and words[8] not in WEAK_DIGESTS:
                found.add(words[10])
    return tuple(sorted(found))


def hashes_of(release: str) -> dict[str, tuple[str, int]]:
    """The SHA-256 section of a Release: path to hash and size in bytes."""
    section = re.search(r"^SHA256:[ \t]*\n((?:[ \t].*(?:\n|$))*)", release, re.MULTILINE)
    rows = [line.split() for line in section[1].splitlines()] if section else []
    good = [
        r for r in rows if len(r) == 3 and re.fullmatch(r"[0-9a-f]{64}", r[0]) and re.fullmatch(r"[0-9]{1,18}", r[1])
    ]
    return {r[2]: (r[0], int(r[1])) for r in good}


def field(release: str, name: str) -> str:
    """A one-line field of a Release, empty when it has none."""
    found = re.search(rf"^{name}:[ \t]*(.*)$", release, re.MULTILINE)
    return found[1].strip() if found else ""


def packages_of(index: Path, wanted: set[str], size: int | None = None) -> dict[str, str]:
    """SHA-256 to NAME_VERSION_ARCH.deb for the wanted packages of an index.

    Args:
        size: bytes of the unpacked index as the vendor signed it, where it did.

    Raises:
        TrustError: the index cannot be read or is too large.
    """
    found: dict[str, str] = {}
    stanza: dict[bytes, str] = {}
    keys = (b"Package", b"Version", b"Architecture", b"SHA256")
    limit = min(MAX_INDEX, unpack.allowance(index.stat().st_size) if size is None else size)
    for line in _lines(index, limit):
        if not line.strip():
            _take(stanza, wanted, found)
            stanza = {}
        key, colon, value = line.partition(b":")
        if colon and key in keys:
            stanza[key] = value.strip().decode(errors="replace")
    _take(stanza, wanted, found)
    return found


def _take(stanza: dict[bytes, str], wanted: set[str], found: dict[str, str]) -> None:
    sha256 = stanza.get(b"SHA256", "")
    if sha256 in wanted:
        version = stanza.get(b"Version", "")
        version = version.partition(":")[2] or version
        found[sha256] = f"{stanza.get(b'Package')}_{version}_{stanza.get(b'Architecture')}.deb"


def _lines(index: Path, limit: int) -> Iterator[bytes]:
    with unpack.opened(index, limit) as stream:
        while line := stream.readline(MAX_LINE):
            yield line


def _signed(slug: str, parts: Mapping[str, Path], keyrings: Sequence[Path]) -> tuple[str, tuple[str, ...]]:
    where = f"{EVIDENCE}{slug}"
    release = parts.get("InRelease") or parts.get("Release")
    signature = None if "InRelease" in parts else parts.get("Release.gpg")
    carried = [p for n, p in parts.items() if n.startswith("keyring.")]
    if not release or not (keyrings or carried) or ("InRelease" not in parts and not signature):
        raise TrustError("the evidence is not whole", where=where, remedy="Copy the bundle again from its source.")
    for keyring in keyrings or carried:
        if answer := verified(keyring, release, signature):
            return answer
    raise TrustError(
        "the vendor's signature does not verify",
        where=where,
        remedy="Give the vendor's keyring, or copy the bundle again from its source.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
