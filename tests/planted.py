"""Fifty secrets of many kinds, fresh in every run, each with a line that plants it as people and programs would."""

from __future__ import annotations

import base64
import random
import string
from dataclasses import dataclass
from urllib.parse import quote

LETTERS, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
MODHEX = "cbdefghijklnrtuv"


@dataclass(frozen=True)
class Secret:
    """What must not be seen, and the text that holds it. ``where`` is file, journal, environment, nginx, unit or inventory."""

    kind: str
    value: str
    line: str
    where: str


def planted(seed: int) -> list[Secret]:  # noqa: PLR0915 - a list, one kind after the other
    """All of them; the values depend on ``seed`` alone."""
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose; these guard nothing

    def word(length: int, alphabet: str = LETTERS) -> str:
        return "".join(rng.choices(alphabet, k=length - 1)) + rng.choice(
            "0123456789" if alphabet == LETTERS else alphabet
        )

    def pem(label: str) -> tuple[str, str]:
        body = [base64.b64encode(rng.randbytes(48)).decode() for _ in range(3)]
        return body[1], "\n".join([f"-----BEGIN {label}-----", *body, f"-----END {label}-----"])

    found: list[Secret] = []

    def add(kind: str, value: str, line: str, where: str) -> None:
        found.append(Secret(kind, value, line, where))

    for label in (
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ):
        value, text = pem(label)
        add(label, value, text, "file")
    value, text = pem("RSA PRIVATE KEY")
    add("private key in JSON", value, '{"material": "' + text.replace("\n", "\\n") + '"}', "file")
    value = word(64, HEX)
    add(
        "ansible vault", value, f"db_login: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  {word(64, HEX)}\n  {value}", "file"
    )
    for name in ("password", "db_passwd", "PASSPHRASE", "ldap.bind.password", "rootPassword", "keystore-password"):
        value = word(14)
        add(name, value, f"{name} = {value}", "file")
    for name in ("client_secret", "api_key", "accessKey", "auth_token", "private-key", "preshared_key", "session_id"):
        value = word(20)
        add(f"JSON {name}", value, f'{{"level": 3, "{name}": "{value}", "mode": "fast"}}', "file")
    value = word(12) + " " + word(5)
    add("quoted with a blank", value, f"smtp_password: '{value}'", "file")
    value = word(18)
    add("YAML block", value, f"service_token: >-\n  {value}\nretries: 3", "file")
    value = word(18)
    add("YAML list", value, f"api_keys:\n  - {word(18)}\n  - {value}\nworkers: 4", "file")
    value = "-".join(word(6, "0123456789") for _ in range(8))
    add("LUKS recovery, digits", value, f"enrolled recovery {value} in slot 2", "file")
    value = "-".join(word(8, MODHEX) for _ in range(8))
    add("LUKS recovery, systemd", value, f"Recovery for /dev/sda3 is: {value}", "journal")
    value = word(16)
    add("URL", value, f"pulling from https://robot:{value}@registry.example.internal/v2/", "journal")
    value = word(16) + "/" + word(4)
    add(
        "URL, escaped",
        quote(value, safe=""),
        f"proxy http://svc:{quote(value, safe='')}@proxy.example.internal:3128",
        "journal",
    )
    value = word(40)
    add("bearer", value, f"curl -H 'Authorization: Bearer {value}' failed with 403", "journal")
    value = base64.b64encode(f"admin:{word(12)}".encode()).decode()
    add("basic", value, f"> authorization: Basic {value}", "journal")
    value = word(24)
    add("cookie", value, f"< Set-Cookie: SESSION={value}; HttpOnly", "journal")
    value = "eyJhbGciOiJIUzI1NiJ9." + word(30) + "." + word(30)
    add("JWT", value, f"rejected {value} from 192.0.2.7", "journal")
    for prefix, length in (
        ("sk-", 40),
        ("hf_", 34),
        ("ghp_", 36),
        ("glpat-", 20),
        ("nvapi-", 60),
        ("hvs.", 24),
        ("AKIA", 16),
    ):
        value = prefix + (word(length).upper() if prefix == "AKIA" else word(length))
        add(f"maker's {prefix}", value, f"loaded {value} of 3 entries", "journal")
    value = "$6$" + word(8) + "$" + word(60)
    add("crypt", value, f"operator:{value}:19000:0:99999:7:::", "file")
    value = word(16)
    add("prompt", value, f'received {{"prompt": "tell me about {value} please"}}', "journal")
    for name in ("HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "SMTP_PASS" + "WORD"):
        value = word(24)
        add(name, value, f"{name}={value}", "environment")
    value = word(22)
    add("nginx header", value, f'proxy_set_header Authorization "Bearer {value}";', "nginx")
    value = word(22)
    add("nginx variable", value, f'set $upstream_secret "{value}";', "nginx")
    value = word(22)
    add("nginx directive", value, f"secure_link_secret {value};", "nginx")
    value = word(22)
    add("unit Environment=", value, f'Environment="TELEMETRY_TOKEN={value}" "MODE=plain"', "unit")
    value = word(22)
    add("unit option", value, f"ExecStartPre=/bin/true --api-key {value} --port 8000", "unit")
    value = word(22)
    add("unit SetCredential=", value, f"SetCredential=db:{value}", "unit")
    value = word(16)
    add("ansible_password", value, f"ansible_become_password: {value}", "inventory")
    value = word(16)
    add("site variable", value, f"vault_admin_token: {value}", "inventory")
    # The same values without their names, as logs have them: only the second pass can find these.
    for secret in [s for s in found if s.where in ("environment", "unit") or s.kind in ("password", "JSON api_key")][
        :6
    ]:
        encoded = base64.b64encode(f"x{secret.value}y".encode()).decode()
        add(f"bare {secret.kind}", secret.value, f"login of bob with {secret.value} failed; dump {encoded}", "journal")
    return found


def seen(secrets: list[Secret], data: bytes) -> list[str]:
    """Kinds of the secrets that ``data`` holds, plainly, in hexadecimal, in base64 at any position, or escaped for an address."""
    found = []
    for secret in secrets:
        raw = secret.value.encode()
        forms = {raw, raw.hex().encode(), quote(secret.value, safe="").encode()}
        for shift in range(3):
            core = base64.b64encode(b"\0" * shift + raw)[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
            forms |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
        if any(form in data for form in forms):
            found.append(secret.kind)
    return found
