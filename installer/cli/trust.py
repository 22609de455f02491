"""`appliance trust`: what a control host believes, and following new roots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.options import DEFAULT_DEPOT, DepotDir, PassphraseFile, PinFile, screen_of
from installer.cli.screen import counted

if TYPE_CHECKING:
    from installer.trust.downgrade import Policy

app = typer.Typer(
    help="See what this control host trusts; follow new roots.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def show(ctx: typer.Context, depot: DepotDir = DEFAULT_DEPOT) -> None:
    """Show the root in force, the newest version seen of every bundle, the latest time seen, every override, and who must agree to
    a downgrade or a plan.

    Example: appliance trust show --json
    """
    from engine import clock
    from engine.errors import InputError
    from installer.cli.tables import Table
    from installer.depot import Depot
    from installer.trust import downgrade, planapproval
    from installer.trust.keys import read_root

    try:
        memory = Depot(depot).memory()
        newest = memory.newest_root()
    except InputError as error:  # whose remedy is for commands with --root
        raise InputError(
            error.what, where=error.where, remedy="`appliance import BUNDLE --root ROOT.json` pins one."
        ) from error
    root = read_root(newest, str(depot))
    seen = clock.latest(memory.clock_file)
    overrides = memory.overrides.read_text().splitlines() if memory.overrides.exists() else []
    policies = {
        "downgrade_needs": downgrade.policy(memory.directory),
        "plan_needs": planapproval.policy(memory.directory),
    }
    table = Table(
        "bundle",
        "newest version",
        caption=_caption(root.version, f"{root.expires:%Y-%m-%d}", str(seen or "never"), len(overrides), policies),
    )
    names = memory.names()
    for name in names:
        table.add_row(name, str(memory.version(name)))
    screen_of(ctx).result(
        {
            "root_version": root.version,
            "root_expires": root.expires.isoformat(),
            "latest_time": seen.isoformat() if seen else None,
            "names": {name: memory.version(name) for name in names},
            "overrides": overrides,
            **{
                what: None if asked is None else {"threshold": asked.threshold, "keys": [k.name for k in asked.keys]}
                for what, asked in policies.items()
            },
        },
        table,
    )


def _caption(version: int, expires: str, seen: str, overrides: int, policies: Mapping[str, Policy | None]) -> str:
    lines = [
        f"root version {version}, expires {expires}; latest time seen {seen}; {counted(overrides, 'override')} on record"
    ]
    for what, asked in zip(("a downgrade", "a plan"), policies.values(), strict=True):
        if asked:
            lines.append(f"{asked.threshold} of {', '.join(k.name for k in asked.keys)} must agree to {what}")
    return "\n".join(lines)


@app.command()
def update(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="What `appliance keys export` wrote.", metavar="DIRECTORY")],
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """Follow new roots that came without a bundle: keys were rotated or revoked.

    Each root must be signed by the threshold of the one before it. What a revoked key signed is refused from now on,
    also on nodes, once they ask the depot the next time; renewed metadata of the bundles should come along.

    Example: appliance trust update /media/drive/trust-update
    """
    from engine import metadata
    from engine.errors import InputError
    from installer.depot import Depot

    if not metadata.present(directory):
        raise InputError("not a trust update", where=str(directory), remedy="Name what `appliance keys export` wrote.")
    chain = metadata.read(directory).roots
    store = Depot(depot)
    before = max(store.memory().roots())
    version = store.learn(chain)
    screen_of(ctx).result(
        {"version": version, "before": before, "changed": version != before},
        f"Root version {version} is in force"
        if version != before
        else f"Root version {version} was in force already; nothing changed",
    )


@app.command("require-approval")
def require_approval(
    ctx: typer.Context,
    keys: Annotated[list[Path], typer.Option("--key", help="NAME.pub.json of one who may agree; may be repeated.")],
    threshold: Annotated[int, typer.Option(help="How many of them must agree.", min=1)] = 1,
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """From now on no downgrade without the signed agreement of other people.

    Without it, the operator's reason alone (`--allow-downgrade`) is enough, on record. This is settled once for a depot,
    and the settling is on record too.

    Example: appliance trust require-approval --key alice.pub.json --key bob.pub.json
    """
    from datetime import UTC, datetime

    from installer.depot import Depot
    from installer.trust import downgrade, signer

    memory = Depot(depot).memory()
    made = downgrade.require_from_now_on(memory.directory, [signer.read_public(k) for k in keys], threshold)
    names = [k.name for k in made.keys]
    memory.note(
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "policy": f"{threshold} of {', '.join(names)} must agree to a downgrade",
            "keyids": [k.keyid for k in made.keys],
        }
    )
    screen_of(ctx).result(
        {"threshold": threshold, "keys": [{"name": k.name, "keyid": k.keyid} for k in made.keys]},
        f"{threshold} of {', '.join(names)} must agree to every downgrade of this depot",
    )


@app.command("require-plan-approval")
def require_plan_approval(
    ctx: typer.Context,
    keys: Annotated[list[Path], typer.Option("--key", help="NAME.pub.json of one who may agree; may be repeated.")],
    threshold: Annotated[int, typer.Option(help="How many of them must agree.", min=1)] = 2,
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """From now on no install without a plan that other people have signed.

    `appliance plan --out` writes it, `appliance approve-plan` signs it, `appliance install --plan DIGEST --plan-approval FILE` does it.
    This is settled once for a depot, and the settling is on record.

    Example: appliance trust require-plan-approval --key alice.pub.json --key bob.pub.json --threshold 2
    """
    from datetime import UTC, datetime

    from installer.depot import Depot
    from installer.trust import planapproval, signer

    memory = Depot(depot).memory()
    made = planapproval.require_from_now_on(memory.directory, [signer.read_public(k) for k in keys], threshold)
    names = [k.name for k in made.keys]
    memory.note(
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "policy": f"{threshold} of {', '.join(names)} must agree to every plan",
            "keyids": [k.keyid for k in made.keys],
        }
    )
    screen_of(ctx).result(
        {"threshold": threshold, "keys": [{"name": k.name, "keyid": k.keyid} for k in made.keys]},
        f"{threshold} of {', '.join(names)} must agree to every plan of this depot",
    )


@app.command("approve-downgrade")
def approve_downgrade(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="The older release, NAME-VERSION.", metavar="RELEASE")],
    before: Annotated[
        int, typer.Option("--from", help="The newest version that the site has seen.", metavar="VERSION")
    ],
    after: Annotated[int, typer.Option("--to", help="The older release's version.", metavar="VERSION")],
    reason: Annotated[str, typer.Option("--reason", help="Why older is meant; it goes on record.")],
    key: Annotated[Path, typer.Option("--key", help="Your NAME.pub.json, its private half beside it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("downgrade-approval.json"),
    days: Annotated[int, typer.Option(help="How long it may be used.", min=1, max=90)] = 7,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Agree, with your own key, that a site goes back to an older release. The refusal there prints the versions.

    The file is good for this one step, once. Whoever runs `import` or `install` gives it with --approval.

    Example: appliance trust approve-downgrade ours-1.0.0 --from 1795255562 --to 1795169162 --reason "1.1.0 loses requests" --key bob.pub.json
    """
    from datetime import UTC, datetime

    from engine.memory import Downgrade
    from installer.trust import downgrade, signer
    from installer.trust.secret import passphrase, pin

    file = signer.read_public(key)
    secret = "" if file.uri.exists() else passphrase(passphrase_file, purpose=f"the key {file.name}")
    made = downgrade.approve(
        Downgrade("", release, before, after), reason, days, out, file, secret, pin(pin_file), datetime.now(UTC)
    )
    screen_of(ctx).result(
        {"approval": str(out), "by": file.public.keyid, "until": made.until.isoformat()},
        f"Wrote {out}: {file.name} agrees that {release} follows version {before}, until {made.until:%Y-%m-%d}",
    )
