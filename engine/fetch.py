"""The one door: how content reaches a node.

Pulls what the node's profiles need from the depot over mutual TLS, verifies it against the node's own pinned root, and
shows it as a directory of hard links. Nothing is looked at before its hash was compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import ssl
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import urllib3

from engine import durable, trust
from engine.blobs import Blobs
from engine.chain import Chain
from engine.download import TIMEOUT, WORKERS, Downloader, Item
from engine.durable import disk_errors
from engine.errors import ApplianceError, ResourceError, TrustError
from engine.memory import ANY, Demand, Memory
from engine.pace import KIB, Pace, Pool, Watch
from engine.relay import split
from engine.relay_unit import Unit
from engine.report import Report, Silent
from engine.trust import Target, Trusted

STORE = Path("/var/lib/appliance")
HEADROOM = 256 << 20  # bytes left free for logs and the system


@dataclass(frozen=True)
class Fetched:
    """The outcome. Sizes in bytes; ``travelled`` counts what came over the network now, ``sources`` from whom; ``lacking_bytes`` is what was not there
    before.

    ``relaying`` says that a relay was left open for neighbours, ``left`` which sources were given up and why.
    """

    release: str
    changed: bool
    files: int
    size: int
    missing: int
    travelled: int
    view: str
    lacking_bytes: int = 0
    relaying: bool = False
    sources: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class Door:
    """A node's store and its way to the depot.

    Args:
        store: holds ``blobs/``, ``trust/NAME/`` and ``views/RELEASE/``.
        url: base address of the release on the depot.
        pool: connections with the node's client certificate.
        chain: the node's neighbours; None takes everything from the depot.
        pace: the slowest that is waited for. Connections of a ``pace.Pool`` are ended then, others when their timeouts run out.
    """

    def __init__(
        self,
        store: Path,
        url: str,
        pool: urllib3.PoolManager,
        pinned_root: bytes,
        report: Report | None = None,
        chain: Chain | None = None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        self._pace = pace
        self._store = store
        self._url = url.rstrip("/")
        self._pool = pool
        self._root = pinned_root
        self._report = report or Silent()
        self._blobs = Blobs(store / "blobs")
        self._chain = chain

    def fetch(
        self, release: str, profiles: set[str], *, below: str = "", dry_run: bool = False, demand: Demand = ANY
    ) -> Fetched:
        """Bring the node's content up to date; with ``dry_run`` only say what would come.

        Args:
            below: only what lies below this directory of the release; its view then shows no more.
            demand: what the control host requires of the metadata; it remembers what a reinstalled node has forgotten.

        Raises:
            TrustError: metadata or content was refused.
            UpstreamError: the depot does not answer, or sends too little.
            ResourceError: too little space; nothing was fetched.
        """
        with Watch(self._pace, self._pool, self._url) as watch:
            return self._fetch(release, profiles, below, demand, watch, dry_run=dry_run)

    def _fetch(
        self, release: str, profiles: set[str], below: str, demand: Demand, watch: Watch, *, dry_run: bool
    ) -> Fetched:
        if self._blobs.root.is_symlink() and not self._blobs.root.exists():
            raise ResourceError(
                "the store's file system is not mounted", where=str(self._blobs.root),
                remedy="Look at systemctl status var-lib-appliance-store.mount on the node; an encrypted store may wait to be opened.",
            )  # fmt: skip
        trusted = self._trusted(release, dry_run, demand)
        if trusted.release != release:
            raise TrustError(
                f"the depot serves {trusted.release}, not {release}",
                where=self._url,
                remedy="Check the release named in the inventory.",
            )
        prefix = f"{below.strip('/')}/" if below else ""
        wanted = [t for t in trusted.for_profiles(profiles) if t.path.startswith(prefix)]
        if not wanted:
            raise ApplianceError(
                f"{release} holds nothing for {', '.join(sorted(profiles))}",
                remedy="Check the node's groups and the definition's profiles.",
            )
        view = self._store / "views" / release
        missing = [t for t in wanted if not self._blobs.has(t.sha256, t.size)]
        stale = not self._complete(view, wanted)
        moved: dict[str, int] = {}
        relaying, left = False, []
        if not dry_run:
            self._require_space(missing)
            watch.expect(sum(t.size for t in missing))
            items = [Item(t.path, f"{self._url}/{quote(t.path)}", t.sha256, t.size) for t in missing]
            if self._chain and items:
                passed = self._chain.fetch(self._blobs, self._pool, self._url, items, wanted, self._report, watch)
                moved, relaying, left = passed.moved, passed.relaying, passed.left
            else:
                loader = Downloader(self._blobs, pool=self._pool, report=self._report, watch=watch)
                moved = {"depot": loader.fetch_all(items, task="fetch")}
            if stale:
                self._link(view, wanted)
        size, travelled, lacking = sum(t.size for t in wanted), sum(moved.values()), sum(t.size for t in missing)
        return Fetched(
            release,
            bool(missing) or stale,
            len(wanted),
            size,
            len(missing),
            travelled,
            str(view),
            lacking,
            relaying,
            moved,
            left,
        )

    def _trusted(self, release: str, dry_run: bool, demand: Demand) -> Trusted:
        """The verified metadata; a dry run stores nothing."""
        fetcher = trust.HttpFetcher(self._pool)
        memory = Memory(self._store / "trust", self._root)
        return (memory.look if dry_run else memory.refresh)(fetcher, self._url, demand)

    def _require_space(self, missing: list[Target]) -> None:
        need = sum(t.size for t in missing)
        free = shutil.disk_usage(_existing(self._blobs.root)).free
        if missing and free < need + HEADROOM:
            raise ResourceError(
                f"{need:,} bytes are to come and {free:,} are free (with {HEADROOM:,} to be left)",
                where=str(self._store),
                remedy="Free space on the node and run the install again.",
            )

    def _complete(self, view: Path, wanted: list[Target]) -> bool:
        """Whether the view holds exactly these files, each still the blob itself."""
        if not view.is_dir():
            return False
        here = {
            str(p.relative_to(view)): p.stat(follow_symlinks=False).st_ino for p in view.rglob("*") if not p.is_dir()
        }
        try:
            return here == {t.path: self._blobs.path(t.sha256).stat().st_ino for t in wanted}
        except FileNotFoundError:
            return False

    def _link(self, view: Path, wanted: list[Target]) -> None:
        """Make the view anew beside the old one and swap."""
        staging, old = view.with_name(f".{view.name}.new"), view.with_name(f".{view.name}.old")
        with disk_errors(view):
            for leftover in (staging, old):
                shutil.rmtree(leftover, ignore_errors=True)
            for target in wanted:
                # A copy would take its room twice, and nothing could tell it from a changed file.
                self._blobs.link(target.sha256, staging / target.path, copies=False)
            if view.exists():
                view.rename(old)
            staging.rename(view)
            durable.sync_dir(view.parent)
            shutil.rmtree(old, ignore_errors=True)


def tls_pool(ca: Path, certificate: Path, key: Path) -> Pool:
    """Connections that trust only our CA, speak TLS 1.3 and show the node's certificate; no proxy is ever used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
    except (OSError, ssl.SSLError) as error:
        raise ApplianceError(
            f"cannot use the node's certificate: {error}",
            where=str(certificate),
            remedy="Run the install again; it renews certificates.",
        ) from error
    return Pool(maxsize=WORKERS, timeout=TIMEOUT, ssl_context=context)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _kib(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 30):
        raise argparse.ArgumentTypeError("a whole number of KiB a second, 1 or more")
    return int(text)


def main(argv: list[str]) -> int:
    """`appliance-engine fetch`: prints one JSON document."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine fetch", description="Fetch verified content from the depot."
    )
    parser.add_argument("--url", required=True, help="https://HOST:PORT/RELEASE of the depot")
    parser.add_argument("--release", required=True)
    parser.add_argument("--profile", action="append", required=True, dest="profiles")
    parser.add_argument("--root", type=Path, required=True, help="pinned root of trust")
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--cert", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--below", default="", metavar="PATH", help="bring only what lies below this directory")
    parser.add_argument("--minimum-version", type=int, default=0, help="refuse metadata older than this version")
    parser.add_argument(
        "--allow-downgrade", default="", metavar="REASON", help="accept an older release; kept on record"
    )
    parser.add_argument("--relay", default="", metavar="ADDRESS:PORT", help="pass content on to neighbours, from here")
    parser.add_argument(
        "--from",
        action="append",
        default=[],
        dest="sources",
        metavar="ADDRESS",
        help="a neighbour to take it from, nearest first",
    )
    parser.add_argument(
        "--to", action="append", default=[], dest="takers", metavar="ADDRESS", help="a neighbour that may ask for it"
    )
    parser.add_argument(
        "--lowest-rate", type=_kib, default=Pace.lowest_rate // KIB, metavar="KIB",
        help="KiB a second that must come on average over two minutes, and that the deadline of the fetch follows from; default %(default)s",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(argv)
    os.umask(0o022)
    pool = tls_pool(options.ca, options.cert, options.key)
    chain = None
    if options.relay:
        unit = Unit(options.store, options.relay, options.takers, options.cert.parent)
        chain = Chain(options.sources, split(options.relay)[1], unit)
    door = Door(
        options.store,
        options.url,
        pool,
        trust.read_root(options.root),
        chain=chain,
        pace=Pace(options.lowest_rate * KIB),
    )
    demand = Demand(options.minimum_version, options.allow_downgrade)
    fetched = door.fetch(
        options.release, set(options.profiles), below=options.below, dry_run=options.dry_run, demand=demand
    )
    print(json.dumps(asdict(fetched)))  # noqa: T201
    return 0
