"""The inventory as Ansible sees it, with the variables that this product reads resolved; runs as a process of its own.

    python -P -m installer.site.resolve -i INVENTORY --list

prints one JSON document (`Answer` in installer.site.ansiblelist). It is Ansible's own command line underneath, so that vault
passwords come from where Ansible takes them (ANSIBLE_VAULT_PASSWORD_FILE, ANSIBLE_VAULT_IDENTITY_LIST, ansible.cfg) and nothing here
decrypts by itself. Only variables with the prefix ``appliance_`` and those of the SSH connection are resolved: a vaulted
``ansible_become_password`` stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible._internal._datatag._tags import Origin
from ansible._internal._json._profiles import _inventory_legacy
from ansible.cli import CLI
from ansible.cli.inventory import InventoryCLI
from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString
from ansible.template import Templar

OURS = "appliance_"
SITE = "appliance_site"
CONNECTION = (
    "ansible_host", "ansible_connection", "ansible_port", "ansible_ssh_port", "ansible_user", "ansible_ssh_user",
    "ansible_ssh_private_key_file", "ansible_private_key_file", "ansible_ssh_common_args", "ansible_ssh_extra_args",
    "ansible_python_interpreter",
)  # fmt: skip
ENCRYPTED = b"$ANSIBLE_VAULT;"
SHORTEST_PART = 6  # characters; a shorter secret is only found where it is the whole value
_WHOLE = re.compile(r"\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*", re.DOTALL)
Path_ = tuple[str | int, ...]


class Resolve(InventoryCLI):  # type: ignore[misc]  # Ansible has no types
    """`ansible-inventory`, but for what it prints."""

    def run(self) -> None:
        """Print the answer. What Ansible cannot do is part of the answer."""
        CLI.run(self)
        try:
            self.loader, self.inventory, self.vm = self._play_prereqs()
            answer = self._answer()
        except AnsibleError as error:
            answer = {
                "fault": {"what": str(error), "vault": "vault" in str(error).lower() or "decrypt" in str(error).lower()}
            }
        sys.stdout.write(json.dumps(answer, cls=_inventory_legacy.Encoder, sort_keys=True))
        sys.exit(0)

    def _answer(self) -> dict[str, Any]:
        hosts = {}
        self._encrypted: dict[str, bool] = {}
        shared: tuple[Any, Any] | None = None  # a site without templates is resolved once
        secrets: set[str] = set()
        references: list[tuple[Path_, Any]] = []
        for host in self.inventory.get_hosts():
            raw = self._remove_internal(self.vm.get_vars(host=host, include_hostvars=False, stage="all"))
            found = {v for name, value in raw.items() if name not in CONNECTION for v in self._secrets(name, value)}
            secrets |= found
            templar = Templar(loader=self.loader, variables=self.vm.get_vars(host=host, stage="all"))
            resolved: dict[str, Any] = {}
            for name, value in raw.items():
                if not name.startswith(OURS) and name not in CONNECTION:
                    continue
                if name == SITE and shared and shared[0] is value:
                    resolved[name] = shared[1]
                    continue
                try:
                    resolved[name] = plain(templar.template(value))
                except AnsibleError as error:
                    key, leaf, error = unresolved(value, templar, error)
                    dotted = ".".join(map(str, (name, *key)))
                    fault = {"what": str(error), "where": place(leaf), "host": host.name, "variable": dotted}
                    return {
                        "fault": fault | {"vault": isinstance(leaf, EncryptedString) or "vault" in str(error).lower()}
                    }
                if name == SITE:
                    shared = None if templated(value) else (value, resolved[name])
                    if found and not references:
                        references = list(self._references(value, resolved[name], found))
            lines = {name: place(value) for name, value in raw.items() if name.startswith(OURS) or name in CONNECTION}
            hosts[host.name] = {"raw": raw, "resolved": resolved, "lines": lines, "line": place(host.name)}
        return {
            "groups": {name: [h.name for h in group.get_hosts()] for name, group in self.inventory.groups.items()},
            "hosts": hosts,
            "references": references,
            "secrets": sorted(secrets),
            "vault": self._vault(),
        }

    def _secrets(self, name: str, value: Any) -> Iterator[str]:
        """Decrypted texts within a variable. What cannot be decrypted cannot be in what was resolved either."""
        for _, leaf in leaves(value):
            if isinstance(leaf, EncryptedString):
                if name.startswith("ansible_"):
                    continue
                try:
                    yield untagged(str(leaf))
                except AnsibleError:
                    continue
            elif isinstance(leaf, str) and leaf and not name.startswith("ansible_") and self._from_vault(leaf):
                yield untagged(leaf)

    def _from_vault(self, leaf: str) -> bool:
        origin = Origin.get_tag(leaf)
        if origin is None or not origin.path:
            return False
        if origin.path not in self._encrypted:
            file = Path(origin.path)
            self._encrypted[origin.path] = file.is_file() and file.open("rb").read(len(ENCRYPTED)) == ENCRYPTED
        return self._encrypted[origin.path]

    def _references(self, raw: Any, resolved: Any, secrets: set[str]) -> Iterator[tuple[Path_, Any]]:
        """Where the site holds a secret, and how Ansible is told of it without anybody writing the secret down: the vault's own text,
        or the template that leads there; None where neither is possible."""
        for path, leaf in leaves(resolved):
            if isinstance(leaf, str) and any(leaf == s or (len(s) >= SHORTEST_PART and s in leaf) for s in secrets):
                yield path, reference(raw, path)

    @staticmethod
    def _vault() -> dict[str, str]:
        """Where this run took its vault passwords from, for the playbooks, which have a configuration of their own."""
        found = {}
        if constants.DEFAULT_VAULT_PASSWORD_FILE:
            found["ANSIBLE_VAULT_PASSWORD_FILE"] = str(constants.DEFAULT_VAULT_PASSWORD_FILE)
        if constants.DEFAULT_VAULT_IDENTITY_LIST:
            entries = []
            for entry in map(str, constants.DEFAULT_VAULT_IDENTITY_LIST):
                label, at, source = entry.rpartition("@")
                entries.append(
                    f"{label}{at}{source if source.startswith('prompt') else Path(source).expanduser().resolve()}"
                )
            found["ANSIBLE_VAULT_IDENTITY_LIST"] = ",".join(entries)
        return found


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Everything in mappings and lists that is neither, with its place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def unresolved(value: Any, templar: Templar, error: AnsibleError) -> tuple[Path_, Any, AnsibleError]:
    """The first leaf that cannot be resolved, its place within ``value``, and why; of ``value`` itself where all of them can."""
    for path, leaf in leaves(value):
        try:
            templar.template(leaf)
        except AnsibleError as found:
            return path, leaf, found
    return (), value, error


def plain(value: Any) -> Any:
    """Ansible's tagged values as Python's own."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return untagged(str(value)) if isinstance(value, (str, EncryptedString)) else value


def untagged(text: str) -> str:
    """Without Ansible's tags, by one of which a decrypted text would be written as its vault again."""
    return "".join((text,))


def templated(value: Any) -> bool:
    """Whether anything in it depends on variables."""
    return any(isinstance(leaf, str) and ("{{" in leaf or "{%" in leaf) for _, leaf in leaves(value))


def place(value: Any) -> str:
    """FILE:LINE where it was written; empty when Ansible does not say."""
    origin = Origin.get_tag(value)
    if not origin or not origin.path:
        return ""
    return f"{origin.path}:{origin.line_num}" if origin.line_num else str(origin.path)


def reference(raw: Any, path: Path_) -> Any:
    """What stands in the inventory for the leaf at ``path``."""
    for depth, step in enumerate(path):
        if isinstance(raw, str):
            whole = _WHOLE.fullmatch(raw)
            rest = "".join(f"[{part!r}]" for part in path[depth:])
            return f"{{{{ ({whole[1].strip()}){rest} }}}}" if whole else None
        raw = raw[step]
    if isinstance(raw, EncryptedString):
        return raw
    return str(raw) if isinstance(raw, str) and templated(raw) else None


if __name__ == "__main__":
    Resolve(["ansible-inventory", *sys.argv[1:]]).run()
