"""A private apt: its own sources, lists and empty package status, for a target that need not be like the builder.

The builder's apt is neither read nor changed and no root is needed. The lists live for one lock only: a lock shall see
what the vendors sign now, and the indexes of a Debian release arrive in seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine import inputfile
from engine.bounds import Bounds, BoundsError
from engine.errors import InputError, TrustError, UpstreamError
from engine.process import run
from engine.report import Report
from installer import aptmirror, openpgp
from installer.definition import AptSource, Target
from installer.kinds import aptsources
from installer.network import aptconfig, children, logins
from installer.network.aptconfig import AptNetwork
from installer.network.host import MAX_CA, Network

MAX_KEYRING = 16 << 20  # bytes; Debian's is 60 kB

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}  # processor: dpkg's name
UPDATE_TIMEOUT_S = 900
RESOLVE_TIMEOUT_S = 300
MEMORY, LISTS = 2 << 30, 8 << 30  # bytes: of each process of apt, and of what it may write; Debian's lists have 60 MB
LINE = re.compile(r"'(?P<url>[^']+)' (?P<file>[^ ]+) (?P<size>[0-9]{1,18}) SHA256:(?P<sha256>[0-9a-f]{64})")
# Debian policy 5.6.1, 5.6.12 and 11.1: what is no such thing must not become part of a path.
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]* [A-Za-z0-9][A-Za-z0-9.+~:-]* [a-z0-9][a-z0-9-]*")
FORGED = re.compile(
    r"not signed|NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|couldn't be verified|Hash Sum mismatch|Clearsigned"
)
# An answer that means: this source has no such suite, component or architecture.
WRONG = re.compile(
    r"The repository '[^'\n]*' does not have a Release file|doesn't have the component '[^'\n]*'|"
    r"repository '[^'\n]*' doesn't support architecture '[^'\n]*'"
)
VIRTUAL = re.compile(r"Package \S+ is a virtual package provided by:$")
SHOWN_PROVIDERS = 12


@dataclass(frozen=True)
class Package:
    """One package of a closure as the signed index describes it; ``size`` in bytes."""

    name: str
    version: str
    arch: str
    url: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """As Debian's pool names it: without the epoch, so that no character of it needs escaping in an address."""
        return f"{self.name}_{self.version.partition(':')[2] or self.version}_{self.arch}.deb"


@dataclass(frozen=True)
class Index:
    """A `Packages` index as apt keeps it; addresses end with a slash."""

    file: Path
    base_uri: str
    repo_uri: str
    meta_key: str

    def beside(self, name: str) -> Path:
        """Where apt keeps ``name`` (such as ``InRelease``) of the same source."""
        return self.file.with_name(self.file.name.removesuffix(self.meta_key.replace("/", "_")) + name)


class Apt:
    """apt with its own directory.

    Args:
        path: state, cache and configuration of this apt. Readable by all: as root, apt downloads as its own user.
        arch: the target's, as dpkg names it.
        network: how the host reaches the vendors.
        own: what the builder's apt knows of that.
    """

    def __init__(self, path: Path, arch: str, network: Network, own: AptNetwork) -> None:
        self.path = path
        self.etc = path / "etc"
        self.keyrings = path / "keyrings"
        for name in ("state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/trusted.gpg.d",
                     "etc/apt.conf.d", "etc/preferences.d", "etc/auth.conf.d", "keyrings"):  # fmt: skip
            (path / name).mkdir(parents=True)
        (path / "state/status").touch()
        (path / "apt.conf").write_text(aptsources.configuration(path, arch))
        trusted = inputfile.read(network.ca, MAX_CA, "the CAs") if network.ca.exists() else b""
        (path / "ca.pem").write_bytes(trusted)
        # Read by apt itself before it turns into its own user; nobody else may.
        _secret(self.etc / "apt.conf.d/50host", own.text(network, path / "ca.pem"))
        _secret(self.etc / "auth.conf.d/50host.conf", logins.to_apt((*own.logins, *network.logins)))
        self._network = network
        self._arch = arch
        self._originals: list[Path] = []

    def use(self, sources: Sequence[AptSource], base: Path) -> None:
        """Take the definition's sources; keyrings are copied, so that apt's own user can read them.

        Raises:
            InputError: a keyring cannot be read, or is none.
            TrustError: it holds a key that the definition does not name.
        """
        self._originals = list(dict.fromkeys(base / s.signed_by for s in sources))
        keyrings = [self._keyring(base / s.signed_by, n, s.fingerprints) for n, s in enumerate(sources)]
        text = aptconfig.without_logins(aptsources.deb822([_absolute(s, base) for s in sources], keyrings, self._arch))
        (self.etc / "sources.list.d/definition.sources").write_text(text)

    def use_builders(self, etc: Path, report: Report) -> None:
        """Take the sources and trusted keys below ``etc`` (``/etc/apt``), except sources that switch verification off."""
        for file in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list")), *sorted(etc.glob("sources.list.d/*.sources"))]:  # fmt: skip
            if not file.is_file():
                continue
            text, unsafe = aptsources.without_unsafe(file.name, aptconfig.without_logins(aptmirror.read(file)))
            for source in unsafe:
                report.say(f"debs: left out a source that switches verification off, in {file}: {source}")
            (self.etc / file.relative_to(etc)).write_text(text)
        for file in [etc / "trusted.gpg", *sorted(etc.glob("trusted.gpg.d/*.gpg")), *sorted(etc.glob("trusted.gpg.d/*.asc"))]:  # fmt: skip
            if file.is_file() and os.access(file, os.R_OK):
                shutil.copyfile(file, self.etc / file.relative_to(etc))
                self._originals.append(file)
        named = [Path(s.get("Signed-By", "")) for s in aptmirror.stanzas(self.etc)]
        self._originals += [k for k in dict.fromkeys(named) if k.is_absolute() and k.is_file()]

    def keyrings_used(self) -> list[Path]:
        """The keyrings that sources are verified with, where the builder has them."""
        return self._originals

    def indexes(self) -> list[Index]:
        """The indexes of packages that the last update brought."""
        form = "$(FILENAME)|$(BASE_URI)|$(REPO_URI)|$(METAKEY)"
        told = self._apt("indextargets", "--format", form, "Identifier: Packages", timeout_s=RESOLVE_TIMEOUT_S).stdout
        rows = [line.split("|") for line in told.splitlines()]
        found = [Index(Path(f), base, repo, key) for f, base, repo, key in rows]
        return [i for i in found if i.file.exists()]

    def update(self, report: Report, *, every_source: bool) -> None:
        """Fetch the indexes and check the vendors' signatures.

        Args:
            every_source: all sources must answer and be signed; otherwise one is enough and the rest are remarked on.

        Raises:
            TrustError: a source is unsigned or signed by another key.
            UpstreamError: a source does not answer.
        """
        # Loud: that a source lacks the target's architecture is only a notice to apt.
        done = self._apt("-q=0", "update", timeout_s=UPDATE_TIMEOUT_S)
        problems = _problems(done)
        answered = any(self.path.glob("state/lists/*_Packages"))
        text = " ".join(problems)
        if every_source and (wrong := WRONG.search(done.stderr)):
            raise InputError(
                f"debs: a source lacks what the definition asks of it: {wrong[0]}",
                remedy=f"Correct suites and components of debs.sources; the target's processor is {self._arch}.",
            )
        if done.returncode and (every_source or not answered):
            if FORGED.search(text):
                raise TrustError(
                    f"debs: apt refuses a source: {text}",
                    remedy="Correct signed_by in the definition; if the key is right, somebody changed the repository.",
                )
            raise UpstreamError(
                f"debs: apt cannot read {'a source' if answered else 'any source'}: {text}",
                remedy="Check the address and the connection and lock again.",
            )
        if not answered:
            raise UpstreamError(f"debs: no source has packages for {self._arch}", remedy="Correct debs.sources.")
        for problem in problems:
            report.say(f"debs: {problem}")

    def closure(self, packages: Sequence[str]) -> list[Package]:
        """The packages and everything they depend on, down to libc; recommended ones stay out.

        Raises:
            InputError: a package does not exist or a dependency cannot be met; carries apt's reason.
        """
        for name in packages:
            if name.partition("=")[0].endswith("-"):  # apt would read this as: remove
                raise InputError(f"debs: there is no package {name}", remedy="Correct the name in the definition.")
        done = self._apt("--print-uris", "--no-install-recommends", "install", *packages, timeout_s=RESOLVE_TIMEOUT_S)
        if done.returncode:
            raise InputError(
                f"debs: cannot resolve {', '.join(packages)}: {' '.join(_reason(done))}",
                remedy="Correct the packages or add the source that has them.",
            )
        return [_package(line) for line in done.stdout.splitlines() if line.startswith("'")]

    def _apt(self, *args: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        env = {**children.network(self._network), "APT_CONFIG": str(self.path / "apt.conf")}
        bounds = Bounds(memory=MEMORY, file=LISTS, directory=self.path, disk=LISTS, time_s=timeout_s)
        try:
            return run(["apt-get", "-q", *args], env=env, inherit=False, ok=(0, 100), bounds=bounds, package="apt")
        except BoundsError as error:
            if error.which in ("space", "time"):
                raise
            raise TrustError(
                f"debs: a source serves more than any index of packages is: {error.what}",
                remedy="Take this source out of debs.sources, or have its publisher look at it.",
            ) from error

    def _keyring(self, source: Path, number: int, fingerprints: Sequence[str]) -> Path:
        remedy = "Correct signed_by in the definition."
        data = inputfile.read(source, MAX_KEYRING, "the keyring of debs.sources", remedy)
        if fingerprints:
            _require_keys(source, data, fingerprints)
        armored = data.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
        copy = self.keyrings / f"{number}{'.asc' if armored else '.gpg'}"  # apt tells the format by the ending
        copy.write_bytes(data)
        return copy


def _require_keys(keyring: Path, data: bytes, fingerprints: Sequence[str]) -> None:
    held = openpgp.primary_keys(data)
    if wrong := [key for key in held if key not in fingerprints]:
        raise TrustError(
            f"debs: the keyring holds the key {wrong[0]}, which the definition does not name", where=str(keyring),
            remedy="Fetch the key again and compare its fingerprint with what its owner publishes; only if the owner changed it, correct "
            "fingerprints in the definition.",
        )  # fmt: skip
    if not held:
        raise InputError(
            "debs: this is not a keyring", where=str(keyring), remedy="Fetch the key again: `gpg --show-keys` must list it."
        )  # fmt: skip


@contextlib.contextmanager
def private(target: Target, network: Network, own: AptNetwork) -> Iterator[Apt]:
    """An apt for ``target`` that is gone afterwards."""
    # Not TMPDIR: that may be a directory of root's alone, and as root apt downloads as a user of its own.
    path = Path(tempfile.mkdtemp(prefix="appliance-apt-", dir="/var/tmp"))
    try:
        path.chmod(0o755)  # public indexes and public keys
        yield Apt(path, ARCH[target.arch], network, own)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _absolute(source: AptSource, base: Path) -> AptSource:
    """A ``file:`` source may be relative to the definition."""
    parts = urlsplit(source.uri)
    if parts.scheme != "file":
        return source
    return source.model_copy(update={"uri": (base / unquote(parts.path)).resolve().as_uri()})


def _package(line: str) -> Package:
    found = LINE.fullmatch(line)
    if not found:
        raise TrustError(
            f"debs: the index has no SHA-256 for a package: {line}",
            remedy="Use a repository that does.",
        )
    url = found["url"]
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading it checks it
        if not (url.isascii() and url.isprintable() and " " not in url):
            raise ValueError(
                "characters in it would have to be escaped"
            )  # urlsplit passes over some of them, others do not
    except ValueError as error:
        raise InputError(
            f"debs: apt gives an address that is none: {error}", where=ascii(url), remedy="Correct debs.sources."
        ) from None
    if parts.scheme not in ("http", "https", "file") or parts.username or parts.password:
        raise InputError(
            f"debs: cannot lock an address with {'a password' if parts.hostname else 'the method ' + parts.scheme}",
            where=parts._replace(netloc=parts.hostname or "").geturl(),
            remedy="Use a source over http, https or file that needs no password.",
        )
    try:
        name, version, arch = (unquote(p) for p in found["file"].removesuffix(".deb").split("_"))
    except ValueError:
        name = version = arch = ""
    if not NAME.fullmatch(f"{name} {version} {arch}"):
        raise InputError(
            f"debs: cannot lock a package of this name: {found['file'][:200]!a}",
            where=url,
            remedy="Correct debs.sources.",
        )
    return Package(name, version, arch, url, int(found["size"]), found["sha256"])


def _problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    """apt's warnings and errors, each once."""
    return list(dict.fromkeys(line for line in done.stderr.splitlines() if line.startswith(("W: ", "E: "))))


def _reason(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Why apt cannot: its errors, and the unmet dependencies it explains on standard output."""
    text = [" ".join(line.split()) for line in done.stdout.splitlines()]
    unmet = [line for line in text if re.search(r"Depends:|Conflicts:|Breaks:|no installation", line)]
    return [*_providers(done.stdout), *unmet, *_problems(done)]


def _providers(output: str) -> list[str]:
    """What apt tells of virtual packages; the providers are the indented lines below, each a name and a version."""
    lines = iter(output.splitlines())
    found = []
    for line in lines:
        if VIRTUAL.match(line):
            names = sorted({below.split()[0] for below in itertools.takewhile(lambda b: b.startswith("  "), lines)})
            more = f" and {len(names) - SHOWN_PROVIDERS} more" if len(names) > SHOWN_PROVIDERS else ""
            found.append(f"{line.strip()} {', '.join(names[:SHOWN_PROVIDERS])}{more}; name one of them.")
    return found
