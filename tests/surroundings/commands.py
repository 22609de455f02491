"""Every command of the command line with the smallest call that does its work, over the world of ``world.py``.

``<x`` is a file or directory of the world that is read, ``>x`` one that is made, ``+x`` one that is read and changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from installer.cli.main import app

NODE, TRUST, USAGE, RESOURCE = 5, 3, 2, 6  # exit codes, as docs/cli.md says


@dataclass(frozen=True)
class Call:
    """A command's words, and how it ends where nothing is amiss.

    Attributes:
        costly: takes a second or more of processor time (Ansible's own programs, an index), so that every run tries it in fewer surroundings.
    """

    words: str
    code: int = 0
    costly: bool = False

    def places(self, sorts: str) -> list[str]:
        """The places among its words that begin with one of ``sorts``."""
        return [w for w in self.words.split() if w[0] in sorts]

    def argv(self, world: Path, instead: dict[str, str] | None = None) -> tuple[str, ...]:
        """The words with real paths; ``instead`` replaces places."""
        return tuple(
            (instead or {}).get(word, str(world / word[1:]) if word[0] in "<>+" else word)
            for word in self.words.split()
        )


# The node of the site does not answer: whatever asks it says so and exits with the code for nodes.
CALLS = {
    "lock": Call("lock <def/tiny.yml --cache +cache", costly=True),
    "check": Call("check <def/tiny.yml"),
    "sign": Call("sign +draft --keys <keys --yes"),
    "renew": Call("renew <small --out >renewal --keys <keys"),
    "kit": Call("kit <bundle --out >kit --keys <keys"),
    "verify": Call("verify <small --root <root.json"),
    "rehearse": Call("rehearse <small --root <root.json", TRUST),  # it holds no manifest, so no node is booted for it
    "inspect": Call("inspect <small --root <root.json"),
    "schema": Call("schema site"),
    "explain": Call("explain site.gateway"),
    "sbom": Call("sbom <bundle --out >sbom.json --root <root.json"),
    "page": Call("page <bundle --out >page.html --root <root.json"),
    "diff": Call("diff <small <next --root <root.json"),
    "delta": Call("delta <next --base <small --out >delta --root <root.json"),
    "split": Call("split <small --size 64M --out >volume-set --root <root.json"),
    "recover": Call("recover <volumes/small-1.0.0.2-of-2 <volumes/small-1.0.0.parity-1-of-1 --out >recovered --root <root.json"),
    "receipt": Call("receipt --out >receipt.json --depot <depot --runs <runs --site-keys +site-keys"),
    "preflight": Call("preflight -i <site --depot <depot-of-bundle", 1, costly=True),
    "plan": Call("plan -i <site --depot +depot-of-bundle --out >plan.json --ca +ca --runs +runs --site-keys +site-keys", NODE, costly=True),
    "approve-plan": Call("approve-plan <change.json --key <people/alice.pub.json --out >agreed.json"),
    "install": Call("install -i <site --depot +depot-of-bundle --ca +ca --runs +runs --site-keys +site-keys", NODE, costly=True),
    "rollback": Call("rollback -i <site --ca +ca --runs +runs --site-keys +site-keys", NODE, costly=True),
    "report": Call("report <report.dsse.json --site <site-keys/site.pub.json"),
    "evidence egress": Call("evidence egress -i <site --evidence +evidence", TRUST, costly=True),
    "import": Call("import <small --root <root.json --depot >new-depot"),
    "status": Call("status -i <site --depot <depot --ca <ca --runs <runs --site-keys <site-keys", NODE, costly=True),
    "doctor": Call("doctor -i <site --out >fault.tar.gz --depot <depot --ca <ca --runs <runs --site-keys <site-keys", NODE, costly=True),
    "retire": Call("retire node-1 -i <site --ca +ca --runs +runs --evidence +evidence --yes"),
    "generations list": Call("generations list -i <site", NODE, costly=True),
    "generations prune": Call("generations prune -i <site --runs +runs --yes", NODE, costly=True),
    "uninstall": Call("uninstall -i <site --runs +runs --evidence +evidence --yes", NODE, costly=True),
    "keys init": Call("keys init --keys >new-keys --passphrase-file <passphrase"),
    "keys new": Call("keys new bob --in >new-people"),
    "keys show": Call("keys show --keys <keys"),
    "keys rotate": Call("keys rotate timestamp --keys +keys"),
    "keys sign-root": Call("keys sign-root --keys +keys", USAGE),  # no root waits
    "keys export": Call("keys export >update --keys <keys"),
    "build bundle": Call("build bundle <def/tiny.yml --keys <keys --cache +cache --out >dist", costly=True),
    "site new": Call("site new >my-site --from <served --root <root.json --node node-1=192.0.2.7"),
    "tenants new": Call("tenants new -i +site --site lab", costly=True),
    "tenants check": Call("tenants check -i <tenants-site", costly=True),
    "tenants show": Call("tenants show -i <tenants-site", costly=True),
    "tenants new-key": Call("tenants new-key team-a -i +tenants-site", costly=True),
    "tenants revoke-key": Call("tenants revoke-key team-b-1 -i +tenants-site", costly=True),
    "tenants apply": Call("tenants apply -i <tenants-site --runs +runs", NODE, costly=True),
    "tenants report": Call("tenants report -i <tenants-site", NODE, costly=True),
    "site check": Call("site check -i <site", costly=True),
    "depot list": Call("depot list --depot <depot"),
    "depot remove": Call("depot remove small-1.0.0 --depot +depot"),
    "depot gc": Call("depot gc --depot <depot"),
    "depot serve": Call("depot serve --address 192.0.2.1 --ca +ca --depot <depot", RESOURCE),  # not an address of this machine
    "trust show": Call("trust show --depot <depot"),
    "trust update": Call("trust update <trust-update --depot +depot"),
    "trust require-approval": Call("trust require-approval --key <people/alice.pub.json --depot +depot"),
    "trust require-plan-approval": Call("trust require-plan-approval --key <people/alice.pub.json --threshold 1 --depot +depot"),
    "trust approve-downgrade": Call(
        "trust approve-downgrade small-1.0.0 --from 2 --to 1 --reason because-it-hangs --key <people/alice.pub.json --out >down.json"
    ),
    "certs init": Call("certs init --dir >new-ca"),
    "certs client": Call("certs client team-a --out >team-a --dir +ca"),
    "certs list": Call("certs list --dir <ca"),
    "certs revoke": Call("certs revoke team-b --dir +ca"),
    "certs rotate": Call("certs rotate -i <site --dir +ca --runs +runs", NODE, costly=True),
    "model check": Call("model check <model --licence MIT"),
    "model demo": Call("model demo >tiny-model"),
    "debs check": Call("debs check <bundle", USAGE),  # it brings no packages
    "runtime audit": Call("runtime audit <bundle --cache +cache --root <root.json"),
    "lab up": Call("lab up Not-A-Name", USAGE),  # the tests of the lab boot nodes
    "lab down": Call("lab down none"),
    "lab list": Call("lab list"),
    "lab sweep": Call("lab sweep"),
    "lab exec": Call("lab exec none-1 -- true", USAGE),
}  # fmt: skip


def of_the_command_line() -> set[str]:
    """All commands that there are, as the command line itself has them."""
    return set(_leaves(get_command(app), typer.Context(get_command(app), info_name="appliance"), ()))


def _leaves(command: Any, context: typer.Context, name: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(command, "list_commands"):
        yield " ".join(name)
        return
    for word in command.list_commands(context):
        yield from _leaves(command.get_command(context, word), context, (*name, word))
