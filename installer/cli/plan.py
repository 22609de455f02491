"""`appliance plan` and `appliance approve-plan`: review a change before it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.nextstep import Word, command, given
from installer.cli.options import (
    DEFAULT_CA,
    DEFAULT_DEPOT,
    DEFAULT_RUNS,
    DEFAULT_SITE_KEYS,
    DepotDir,
    PassphraseFile,
    PinFile,
    Root,
    SiteKeys,
    screen_of,
)
from installer.cli.screen import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from installer.site.plan import Plan


def plan(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle directory; the depot's release when left out.", metavar="BUNDLE")
    ] = None,
    depot: DepotDir = DEFAULT_DEPOT,
    root: Root = None,
    release: Annotated[str, typer.Option("--release", help="Release of the depot, NAME-VERSION.")] = "",
    limit: Annotated[str, typer.Option("--limit", help="Only these nodes (an Ansible pattern).")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the plan there, for review and approval.")
    ] = None,
    ca: Annotated[Path, typer.Option("--ca", help="Directory of the site's certificate authority.")] = DEFAULT_CA,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are kept.")] = DEFAULT_RUNS,
    site_keys: SiteKeys = DEFAULT_SITE_KEYS,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what an install would do, node by node and batch by batch, with a digest; change nothing.

    `appliance install --plan DIGEST` makes the plan again and goes on only if it is still the same. With
    `appliance trust require-plan-approval` the depot also wants the plan signed by others (`appliance approve-plan`).

    \b
    Examples:
      appliance plan -i inventories/example /media/drive/demo-1.1.0 --out change-4711.json
      appliance install -i inventories/example /media/drive/demo-1.1.0 --plan sha256:9f2c…
    """
    import json

    from engine import durable
    from installer.cli.install import listener
    from installer.depot import Depot
    from installer.site import controlpki
    from installer.site import inventory as inventories
    from installer.site.install import Request
    from installer.site.planning import estimate, make
    from installer.trust import planapproval
    from installer.trust.secret import passphrase, private_copy

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    # The dry run signs a certificate for the depot's server; before the first install there is no authority, and nodes fetch nothing.
    needed = controlpki.exists(ca)
    secret = passphrase(passphrase_file, purpose=f"the site's certificate authority in {ca}") if needed else ""
    with screen, private_copy(secret) as secret_file:
        request = Request(
            inventory=site, depot=Depot(depot), ca_dir=ca, ca_passphrase=secret_file, runs=runs, site_keys=site_keys, bundle=bundle,
            release=release, root=root, limit=limit, check=True, diff=True,
        )  # fmt: skip
        made = make(request, screen, listener(screen))
    if out:
        durable.write(out, json.dumps(made.data(), indent=1, sort_keys=True) + "\n", mode=0o600)
    minutes = estimate(runs, made)
    document = {**made.data(), "digest": f"sha256:{made.digest}", "estimated_minutes": minutes}
    screen.result(document, _page(made, minutes, out))
    words = (
        "-i", inventory, *given("--depot", depot, DEFAULT_DEPOT), *given("--root", root), *given("--release", release),
        *given("--limit", limit), *given("--ca", ca, DEFAULT_CA), *given("--runs", runs, DEFAULT_RUNS),
        *given("--site-keys", site_keys, DEFAULT_SITE_KEYS), *((bundle,) if bundle else ()),
    )  # fmt: skip
    if made.changes:
        screen.next(_following(made, words, out, asks=planapproval.policy(depot / "trust") is not None))


def _following(made: Plan, words: tuple[Word, ...], out: Path | None, *, asks: bool) -> str:
    """What comes after a plan. ``words`` are those of its command line, ``asks`` whether the depot wants plans approved."""
    if not asks:
        return command("install", *words, "--plan", f"sha256:{made.digest}")
    if out:
        return command("approve-plan", out, "--key", "NAME.pub.json")
    return f"{command('plan', *words, '--out', 'PLAN.json')}, for this depot wants plans approved"


def approve_plan(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `appliance plan --out` wrote.", metavar="PLAN")],
    key: Annotated[Path, typer.Option("--key", help="Your NAME.pub.json, its private half beside it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("plan-approval.json"),
    days: Annotated[int, typer.Option(help="How long it may be used.", min=1, max=90)] = 7,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Agree, with your own key, to exactly this plan. Whoever installs gives the file with --plan-approval.

    \b
    Example:
      appliance approve-plan change-4711.json --key bob.pub.json --out bob.json
    """
    from datetime import UTC, datetime

    from installer.trust import planapproval, signer
    from installer.trust.secret import passphrase, pin

    keyfile = signer.read_public(key)
    secret = "" if keyfile.uri.exists() else passphrase(passphrase_file, purpose=f"the key {keyfile.name}")
    digest = planapproval.digest_of(file)
    made = planapproval.approve(digest, days, out, keyfile, secret, pin(pin_file), datetime.now(UTC))
    screen = screen_of(ctx)
    screen.result(
        {
            "approval": str(out),
            "digest": f"sha256:{digest}",
            "by": keyfile.public.keyid,
            "until": made.until.isoformat(),
        },
        f"Wrote {out}: {keyfile.name} agrees to the plan sha256:{digest}, until {made.until:%Y-%m-%d}",
    )
    screen.next(command("install", "-i", "SITE", "BUNDLE", "--plan", f"sha256:{digest}", "--plan-approval", out))


def _page(made: Plan, minutes: float | None, out: Path | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from installer.cli.tables import Table
    from installer.site.plan import batches_of
    from installer.site.steps import task_words

    table = Table("node", "from", "to", "fetches", "out of service", "certificate", "reboot", "changes")
    for node in made.nodes:
        idle = not node.tasks and not node.blind
        table.add_row(
            node.node, node.before or "nothing", made.release if not idle else "as it is", "all of it" if node.blind else size(node.fetch_bytes), ", ".join(node.leaves) or "no",
            "new" if node.certificate else "kept", "yes" if node.reboot else "no", "everything" if node.blind else str(len(node.tasks)),
        )  # fmt: skip
    lines: list[RenderableType] = [table]
    if made.content:
        kinds = Table("", "name", "before", "after")
        for change in made.content:
            kinds.add_row(change.kind, change.name, change.before or "—", change.after or "—")
        lines += [Text(f"\nwhat {made.release} brings"), kinds]
    if any(p.has for node in made.nodes for p in node.services):
        where = Table("service", "replica", "node", "GPUs and CPUs")
        for node in made.nodes:
            for place in node.services:
                where.add_row(place.service, place.replica, node.node, place.has or "shared")
        lines += [Text("\nwhere services run"), where]
    shown: set[str] = set()
    for node in made.nodes:
        if node.tasks:
            lines.append(Text(f"\n{node.node}"))
            lines += [Text(f"  {task_words(task)}") for task in node.tasks]
        for file in node.files:
            if file.diff and file.digest not in shown:
                shown.add(file.digest)
                lines.append(Text(file.diff))
    lines.append(Text(""))
    lines += [Text(f"batch {number}: {', '.join(batch)}") for number, batch in enumerate(batches_of(made), 1)]
    lines.append(
        Text(
            f"about {minutes:.0f} minutes, as earlier runs took"
            if minutes
            else "no earlier run says how long this takes"
        )
    )
    if not made.changes:
        lines.append(Text("nothing would change"))
    lines.append(Text(f"plan sha256:{made.digest}" + (f", written to {out}" if out else "")))
    return Group(*lines)
