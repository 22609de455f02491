"""`appliance tenants`: who may ask a site's gateway, for which models and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from installer.cli.nextstep import command, given
from installer.cli.options import DEFAULT_RUNS, screen_of

app = typer.Typer(help="Say who may ask the gateway, and how much.", no_args_is_help=True, rich_markup_mode=None)
InventoryDir = Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")]


@app.command()
def new(
    ctx: typer.Context,
    inventory: InventoryDir,
    site: Annotated[
        str, typer.Option("--site", help="Prefix of the site's API keys: lower-case letters and digits.")
    ] = "site",
) -> None:
    """Write a tenants file to start from, tenants.yml beside the inventory.

    It is used once gateway.tenants of the site names it.

    Example: appliance tenants new -i site --site lab
    """
    from installer.site.inventory import load
    from installer.site.tenants import manage

    found = load(inventory)
    name = found.site.services[0].served_name if found.site.services else "MODEL"
    path = manage.start(inventory, found.site.gateway.tenants or "tenants.yml", site, name)
    screen = screen_of(ctx)
    screen.result({"file": str(path)}, f"Wrote {path}")
    if not found.site.gateway.tenants:
        screen.next(
            f"set gateway.tenants: {path.name} in group_vars/all/site.yml, then {command('tenants', 'check', '-i', inventory)}"
        )


@app.command()
def check(ctx: typer.Context, inventory: InventoryDir) -> None:
    """Check the tenants file as the gateway itself does, and that every model in it is served; touches no node.

    Every fault is named with file, line and key.

    Example: appliance tenants check -i site
    """
    from installer.site.inventory import load
    from installer.site.tenants.manage import required
    from installer.site.tenants.render import PROOF

    configuration = required(load(inventory)).configuration
    tenants = [t.name for t in configuration.tenants if t.name != PROOF]
    models = [m.name for m in configuration.models]
    screen_of(ctx).result(
        {"ok": True, "tenants": tenants, "models": models},
        f"{len(tenants)} tenants, {len(models)} models: no fault found",
    )


@app.command()
def show(ctx: typer.Context, inventory: InventoryDir) -> None:
    """List tenants with their models, limits and credentials; touches no node.

    Example: appliance tenants show -i site
    """
    from datetime import UTC, datetime

    from installer.cli.tables import Table
    from installer.site.inventory import load
    from installer.site.tenants.manage import required, standing
    from installer.site.tenants.render import PROOF

    now, told = datetime.now(UTC), []
    table = Table("tenant", "credential", "kind", "expires", "state")
    configuration = required(load(inventory)).configuration
    for tenant in configuration.tenants:
        if tenant.name == PROOF:
            continue
        keys = [
            {"id": k.id, "project": k.project, "expires": k.expires.isoformat(), "state": standing(k, now)}
            for k in tenant.keys
        ]
        rules = [
            {"id": r.id, "issuer": i.issuer} for i in configuration.issuers for r in i.rules if r.tenant == tenant.name
        ]
        told.append(
            {
                "name": tenant.name, "cost_centre": tenant.cost_centre, "models": list(tenant.models), "highest_class": tenant.highest_class,
                "limits": tenant.limits.model_dump(exclude_none=True), "keys": keys,
                "certificates": [{"id": c.id, "san": c.san} for c in tenant.certificates], "token_rules": rules,
            }
        )  # fmt: skip
        for key in keys:
            table.add_row(tenant.name, str(key["id"]), "key", str(key["expires"])[:10], str(key["state"]))
        for certificate in tenant.certificates:
            table.add_row(tenant.name, certificate.id, "certificate", "", certificate.san)
        for rule in rules:
            table.add_row(tenant.name, rule["id"], "token", "", rule["issuer"])
        if not (keys or tenant.certificates or rules):
            table.add_row(tenant.name, "none", "", "", "")
    screen_of(ctx).result({"tenants": told}, table)


@app.command("new-key")
def new_key(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(help="Name of the tenant.")],
    inventory: InventoryDir,
    name: Annotated[str, typer.Option("--id", help="Name of the key; TENANT-NUMBER when left out.")] = "",
    days: Annotated[int, typer.Option("--days", help="Days until it expires, 30 to 90.")] = 90,
    project: Annotated[str, typer.Option("--project", help="Project of the tenant that it belongs to.")] = "",
) -> None:
    """Make an API key: print it, once, and write its hash into the tenants file.

    The file's comments stay. Two keys of a tenant may be valid at once, so that one can replace the other. It counts when it is applied.

    \b
    Examples:
      appliance tenants new-key team-a -i site
      appliance tenants new-key team-a -i site --id team-a-search --project search --days 30
    """
    from installer.site.inventory import load
    from installer.site.tenants import manage

    made = manage.new_key(load(inventory), tenant, name, days, project)
    screen = screen_of(ctx)
    screen.say(f"key {made.id} of {made.tenant}, valid until {made.expires:%Y-%m-%d}; it is shown now and never again")
    screen.result(
        {"tenant": made.tenant, "id": made.id, "expires": made.expires.isoformat(), "key": made.text}, made.text
    )
    screen.next(command("tenants", "apply", "-i", inventory))


@app.command("revoke-key")
def revoke_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the key, as `appliance tenants show` lists it.", metavar="KEY")],
    inventory: InventoryDir,
) -> None:
    """Take an API key out of the tenants file.

    When it is applied, new requests with it are refused at once and running ones end.

    Example: appliance tenants revoke-key team-a-1 -i site
    """
    from installer.site.inventory import load
    from installer.site.tenants import manage

    tenant = manage.revoke_key(load(inventory), name)
    screen = screen_of(ctx)
    screen.result({"tenant": tenant, "id": name}, f"key {name} of {tenant} is taken out of the tenants file")
    screen.next(command("tenants", "apply", "-i", inventory))


@app.command()
def apply(
    ctx: typer.Context,
    inventory: InventoryDir,
    check: Annotated[
        bool, typer.Option("--check", "--dry-run", help="Show what would change on the gateway host; change nothing.")
    ] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = DEFAULT_RUNS,
) -> None:
    """Bring the tenants to the gateway host, and nothing else.

    It is in force within a second, without a restart; no stream ends but those of credentials that were taken out. The gateway host
    checks it as a whole first: a wrong one changes nothing. Every change is in the gateway's audit log.

    \b
    Examples:
      appliance tenants apply -i site --check
      appliance tenants apply -i site
    """
    from installer.cli.install import listener
    from installer.site.inventory import load
    from installer.site.tenants import apply as applying

    screen = screen_of(ctx)
    found = load(inventory)
    with screen:
        done = applying.apply(found, runs, listener(screen), check=check)
    data = {
        "node": done.node,
        "check": check,
        "changed": done.changed,
        "differences": dict(done.differences),
        "log": done.log,
    }
    would = "would change" if check else "changed"
    screen.result(
        data,
        "\n".join([*done.differences.values(), f"{done.node}: {would if done.changed else 'nothing to do'}"]).strip(),
    )
    if check and done.changed:
        screen.next(command("tenants", "apply", "-i", inventory, *given("--runs", runs, DEFAULT_RUNS)))


@app.command()
def report(
    ctx: typer.Context,
    inventory: InventoryDir,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="From this time on (ISO 8601).")] = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="Before this time (ISO 8601).")] = "",
) -> None:
    """Requests, tokens and cost of every tenant, from the gateway's audit log.

    \b
    Examples:
      appliance tenants report -i site
      appliance tenants report -i site --since 2026-12-01 --until 2027-01-01 --json
    """
    from engine.report import printable
    from installer.cli.tables import Table
    from installer.site.inventory import load
    from installer.site.tenants import apply as applying

    told = applying.report(load(inventory), since, until)
    table = Table(
        "tenant",
        "requests",
        "refused",
        "prompt tokens",
        "completion tokens",
        f"cost ({printable(str(told.get('currency', '')), keep='')})",
    )
    for name, total in sorted(_entries(told, "tenant").items()):
        shown = ("requests", "refused", "prompt_tokens", "completion_tokens", "cost")
        table.add_row(printable(name, keep=""), *(printable(str(total.get(k, "")), keep="") for k in shown))
    screen_of(ctx).result(told, table)


def _entries(told: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """What a node said below a key, as far as it is what it should be."""
    found = told.get(key)
    return {str(n): t for n, t in found.items() if isinstance(t, dict)} if isinstance(found, dict) else {}
