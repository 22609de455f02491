"""What roles say they leave on nodes, and which packages may go with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.daytwo import packages, remove
from engine.daytwo.packages import Package
from engine.errors import InputError
from installer.site import owned
from tests.demo import TREE


def role(base: Path, name: str, text: str | None) -> None:
    (base / name / "tasks").mkdir(parents=True)
    (base / name / "meta").mkdir()
    if text is not None:
        (base / name / owned.OWNS).write_text(text)


def test_every_role_says_what_it_leaves_on_a_node() -> None:
    """Fails for a role without meta/owns.yml, and for one that declares what no role can own."""
    told = owned.declarations()
    roles = {p.name for p in (TREE / "roles").iterdir() if (p / "tasks").is_dir()}
    assert {own["role"] for own in told} == roles
    assert all(any(own[kind] for kind in own if kind != "role") for own in told), "an empty declaration says nothing"


def test_what_a_role_templates_or_makes_for_systemd_it_also_declares() -> None:
    """Every unit that a role writes is among its units, and every state directory of a unit among its directories."""
    for own in owned.declarations():
        base = TREE / "roles" / own["role"]
        for file in [*base.glob("tasks/*.yml"), *base.glob("handlers/*.yml")]:
            for line in file.read_text().splitlines():
                key, _, value = line.strip().partition(": ")
                if (
                    key != "dest"
                    or "/etc/systemd/system/" not in value
                    or "{{" in value.split("/etc/systemd/system/")[1]
                ):
                    continue
                name = value.strip("\"'").split("/etc/systemd/system/")[1].split("/")[0]
                kept = value.strip("\"'").startswith(tuple(own["keeps"]) or ("-",))
                kept = kept or value.strip("\"'") in own["files"]
                assert kept or any(name.startswith(u.split("*")[0]) for u in own["units"]), (file, value)
        for unit in base.glob("templates/*.service.j2"):
            for line in unit.read_text().splitlines():
                for key, place in (("State", "/var/lib"), ("Cache", "/var/cache"), ("Logs", "/var/log")):
                    said = re.sub(r"\{\{.*?\}\}", "X", line.partition("=")[2])  # a template's expression has spaces
                    for name in said.split() if line.startswith(f"{key}Directory=") else []:
                        top = f"{place}/{name.partition('/%i')[0]}"
                        assert top in (*own["directories"], *own["keeps"]) or top.startswith(
                            tuple(own["models"] or ["-"])
                        ), (unit, line)


def test_the_firewall_comes_after_what_it_guards_and_before_the_services_in_the_order_of_the_install() -> None:
    names = [own["role"] for own in owned.declarations()]
    assert (
        names.index("node") < names.index("pki") < names.index("firewall") < names.index("vllm") < names.index("nginx")
    )


def test_a_role_that_declares_nothing_is_named(tmp_path: Path) -> None:
    role(tmp_path, "forgetful", None)
    with pytest.raises(InputError, match="forgetful does not say"):
        owned.declarations(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "directories: [/etc]",
        "directories: [/etc/../etc/ssh]",
        "directories: [etc/appliance]",
        "directories: ['/etc/appliance/*']",
        "files: [/etc/appliance/]",
        "units: ['*.service']",
        "units: ['ssh*.service']",
        "units: [ssh]",
        "nft_tables: [appliance]",
        "nft_tables: ['inet filter; flush ruleset']",
        "users: ['a b']",
        "packages: ['--all']",
        "everything: true",
    ],
)
def test_what_could_take_along_something_of_others_is_refused(text: str, tmp_path: Path) -> None:
    role(tmp_path, "greedy", f"---\n{text}\n")
    with pytest.raises(InputError, match=r"owns\.yml"):
        owned.declarations(tmp_path, tmp_path)


@pytest.mark.parametrize("path", ["/", "/etc", "relative", "/etc/x/../../root/y", "/etc/appliance/*", "/etc//x"])
def test_the_node_refuses_such_paths_by_itself(path: str) -> None:
    with pytest.raises(InputError, match="cannot be owned"):
        remove._checked({"role": "r", "directories": [path]})


def test_a_declaration_of_a_newer_installer_is_not_half_understood() -> None:
    with pytest.raises(InputError, match="does not know"):
        remove._checked({"role": "r", "containers": ["c"]})


def test_apts_own_record_says_what_came_with_us() -> None:
    history = (
        "\nStart-Date: 2026-11-21  08:00:00\nCommandline: apt-get --quiet --yes install python3-apt\n"
        "Install: python3-apt:amd64 (2.6.0), python-apt-common:amd64 (2.6.0, automatic)\nEnd-Date: 2026-11-21  08:00:01\n"
        "\nStart-Date: 2026-11-21  08:01:00\nUpgrade: libc6:amd64 (2.36-9, 2.36-10)\nEnd-Date: 2026-11-21  08:01:01\n"
        "\nStart-Date: 2026-11-21  08:02:00\nInstall: nginx-light:amd64 (1.22.1-9), libstdc++6:amd64 (12, automatic)\n"
    )
    assert packages.installed_by_us(history) == ("python3-apt", "python-apt-common", "nginx-light", "libstdc++6")
    assert packages.installed_by_us("") == ()


def known(*rows: tuple[str, str, str]) -> dict[str, Package]:
    return {
        name: Package(name, tuple(packages._names(provides)), tuple(packages._needs(needs)))
        for name, provides, needs in rows
    }


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ((), ("nginx-light", "nginx-common", "libfoo1")),
        ((("site-tool", "", "libfoo1 (>= 1)"),), ("nginx-light", "nginx-common")),
        ((("site-tool", "", "nginx-light"),), ()),
        ((("site-tool", "", "httpd"),), ()),
        ((("site-tool", "", "httpd"), ("apache2", "httpd", "")), ("nginx-light", "nginx-common", "libfoo1")),
        ((("site-tool", "", "nginx-light | apache2"), ("apache2", "", "")), ("nginx-light", "nginx-common", "libfoo1")),
        ((("site-tool", "", "libfoo1:any | libbar"),), ("nginx-light", "nginx-common")),
    ],
)
def test_a_package_stays_while_anything_that_stays_needs_it(
    others: tuple[tuple[str, str, str], ...], left: tuple[str, ...]
) -> None:
    ours = known(
        ("nginx-light", "httpd (= 1), nginx", "nginx-common (= 1), libfoo1, libc6"),
        ("nginx-common", "", "debconf | cdebconf"),
        ("libfoo1", "", "libc6"),
    )
    system = known(("libc6", "", ""), ("debconf", "", ""), *others)
    assert packages.unneeded(("nginx-light", "nginx-common", "libfoo1"), {**ours, **system}) == left
