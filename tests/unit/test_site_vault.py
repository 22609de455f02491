"""Variables and vaults in an inventory: Ansible resolves them, and what it decrypts is written nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine.errors import InputError
from installer.cli.main import app
from installer.site import inventory as inventories
from installer.site.doctor import control
from installer.site.inventory import Inventory, load
from installer.site.playbooks import Playbooks
from installer.site.status import Places
from installer.site.variables import variables

HASH = "$6$abcdefgh$" + "Zq" * 30
SITE = {
    "control": {"address": "{{ net }}.5"},
    "management_sources": ["{{ net }}.5/32"],
    "baseline": {"admins": [{"name": "alice", "keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA alice"]}]},
}
BIN = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ansible takes the vault's password from."""
    file = tmp_path / "vault-password"
    file.write_text("a password for tests\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(file))
    yield file


def vault(password: Path, *arguments: str) -> str:
    """`ansible-vault`, which would find the password twice if it were not told where by its environment alone."""
    environment = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(password), "LC_ALL": "C.UTF-8"}
    argv = [str(BIN / "ansible-vault"), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def site(path: Path, secret: str) -> Path:
    """An inventory whose site has ``secret``, YAML as text, for alice's password."""
    (path / "group_vars/all").mkdir(parents=True)
    hosts = {
        "all": {
            "vars": {"net": "192.0.2", "ansible_user": "alice"},
            "children": {"gpu": {"hosts": {"gpu-1": {"ansible_host": "{{ net }}.21"}}}},
        }
    }
    (path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    text = yaml.safe_dump({"appliance_site": SITE}, sort_keys=False).rstrip()
    (path / "group_vars/all/site.yml").write_text(f"{text}\n      password: {secret}\n")
    return path


def inline(password: Path) -> str:
    """`ansible-vault encrypt_string` as a value, indented for its place."""
    return vault(password, "encrypt_string", HASH).strip().replace("\n", "\n        ")


def in_a_file(path: Path, password: Path) -> Path:
    file = path / "group_vars/all/secrets.yml"
    file.write_text(f"hash_of_alice: '{HASH}'\n")
    vault(password, "encrypt", str(file))
    return path


def both(tmp_path: Path, password: Path) -> list[Path]:
    """The same site with an inline vault, and with a template that leads into an encrypted file."""
    return [
        site(tmp_path / "inline", inline(password)),
        in_a_file(site(tmp_path / "file", '"{{ hash_of_alice }}"'), password),
    ]


def test_variables_are_resolved_and_vaults_decrypted(tmp_path: Path, password: Path) -> None:
    for path in both(tmp_path, password):
        found = load(path)
        assert [h.address for h in found.hosts] == ["192.0.2.21"]
        assert found.site.control.address == "192.0.2.5"
        assert found.site.baseline and found.site.baseline.admins[0].password == HASH


def test_what_was_decrypted_is_in_nothing_that_is_shown_or_written(tmp_path: Path, password: Path) -> None:
    for path in both(tmp_path, password):
        found = load(path)
        made = variables(found, "ours-1.0.0", {})
        assert made["appliance_site"]["baseline"]["admins"][0]["password"]
        for written in (
            made,
            found.shown(),
            control(found, Places(path, path, path, path)),
            inventories.variables(path),
        ):
            assert HASH not in json.dumps(written, default=str)
        shown = CliRunner().invoke(app, ["--json", "site", "check", "-i", str(path)])
        assert shown.exit_code == 0 and HASH not in shown.output and "(from the vault)" in shown.output


class Heard:
    """A tracker that keeps what Ansible says of its tasks."""

    def __init__(self) -> None:
        self.failures: dict[str, Any] = {"heard": ""}  # so that a failed run is looked at below and not raised
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> bool:
        self.events.append(event)
        return False


def test_ansible_gets_the_value_and_the_runs_directory_does_not(
    tmp_path: Path, password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The playbooks of an install, but for what they do: one that compares the password with its hash."""
    import hashlib

    from installer import product

    books = tmp_path / "product/playbooks"
    books.mkdir(parents=True)
    (books / "ansible.cfg").write_text("[defaults]\nstdout_callback = default\n")
    (books / "look.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  connection: local\n  tasks:\n    - ansible.builtin.assert:\n"
        f"        that: (appliance_site.baseline.admins | first).password | hash('sha256') == '{hashlib.sha256(HASH.encode()).hexdigest()}'\n"
    )
    monkeypatch.setattr(product, "data", lambda name: tmp_path / "product" / name)
    for path in both(tmp_path, password):
        found = load(path)
        run = tmp_path / f"run-{path.name}"
        run.mkdir()
        heard = Heard()
        Playbooks(found, run, variables(found, "ours-1.0.0", {}), heard).run("look.yml", ["gpu-1"])  # type: ignore[arg-type]
        assert any(e["event"] == "runner_on_ok" for e in heard.events), (run / "ansible.log").read_text()
        written = [p for p in run.rglob("*") if p.is_file()]
        assert written and not [p for p in written if HASH.encode() in p.read_bytes()]


def test_a_vault_without_its_password_is_named_with_the_remedy(
    tmp_path: Path, password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = both(tmp_path, password)
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
    for path in paths:
        with pytest.raises(InputError, match="cannot decrypt") as refused:
            load(path)
        assert "ANSIBLE_VAULT_PASSWORD_FILE" in refused.value.remedy


def test_a_variable_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"site.yml:\d+: appliance_site.baseline.admins.0.password of gpu-1 cannot be resolved: .*'hash_of_alice' is undefined",
    ):
        load(site(tmp_path / "site", '"{{ hash_of_alice }}"'))


def test_a_fault_of_a_secret_does_not_show_it(tmp_path: Path, password: Path) -> None:
    """A weak hash is refused at its key, and the message has nothing of it."""
    path = site(
        tmp_path / "site", vault(password, "encrypt_string", "hunter2-in-the-open").strip().replace("\n", "\n        ")
    )
    with pytest.raises(
        InputError, match=r"baseline\.admins\.0\.password: has a password that is not a strong crypt hash"
    ) as refused:
        load(path)
    assert "hunter2" not in str(refused.value)


def test_a_secret_that_plans_would_show_is_refused_by_name(tmp_path: Path, password: Path) -> None:
    path = site(tmp_path / "site", f"'{HASH}'")
    wrong = vault(password, "encrypt_string", "192.0.2.77").strip().replace("\n", "\n        ")
    file = path / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("management_sources:", f"runtime: {wrong}\n  management_sources:"))
    with pytest.raises(
        InputError, match=r"site.yml:\d+: runtime comes from a vault, and plans, reports or units"
    ) as refused:
        load(path)
    assert "192.0.2.77" not in str(refused.value)
    whole = site(tmp_path / "whole", f"'{HASH}'")
    vault(password, "encrypt", str(whole / "group_vars/all/site.yml"))
    with pytest.raises(InputError, match="comes from a vault"):
        load(whole)


def test_a_site_that_differs_between_hosts_is_refused(tmp_path: Path) -> None:
    path = site(tmp_path / "site", f"'{HASH}'")
    hosts = yaml.safe_load((path / "hosts.yml").read_text())
    hosts["all"]["children"]["gpu"]["hosts"]["gpu-2"] = {"ansible_host": "192.0.2.22", "net": "198.51.100"}
    (path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    with pytest.raises(InputError, match="not the same for gpu-1 and gpu-2"):
        load(path)


@pytest.mark.parametrize("locale", ["C", "de_DE.UTF-8", "POSIX", "xx_YY.ISO-8859-1"])
def test_the_sessions_locale_does_not_decide_whether_an_inventory_is_read(
    locale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site(tmp_path / "site", f"'{HASH}'")
    file = path / "group_vars/all/more.yml"
    file.write_text("beschreibung: Prüfstand für Köln\n", encoding="utf-8")
    for name in ("LC_ALL", "LANG", "LC_CTYPE"):
        monkeypatch.setenv(name, locale)
    assert isinstance(load(path), Inventory)


@pytest.mark.parametrize("name", ["hosts.yml", "group_vars/all/more.yml"])
def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    """Ansible names neither; of a file of hosts it says no more than that it found no inventory."""
    path = site(tmp_path / "site", "'!'")
    (path / name).write_text("all:\n\thosts: {}\n")
    with pytest.raises(InputError, match=rf"{name}:2: not valid YAML: a tab begins the line; YAML takes spaces alone"):
        load(path)
    (path / name).write_text("all:\n  hosts: [\n")
    with pytest.raises(InputError, match=rf"{name}:\d: not valid YAML: "):
        load(path)
