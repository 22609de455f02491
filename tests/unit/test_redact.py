"""Secrets leave texts, and what helps to find a fault stays."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.daytwo.redact import redacted
from installer.pki import Authority, utc_now
from installer.site.doctor import archive, plain
from tests.planted import planted, seen

USEFUL = """\
2026-11-21T08:00:01+00:00 node-1 nginx[812]: connect() to unix:/run/appliance-vllm/tiny/api.sock failed (111: Connection refused)
ssl_certificate_key /etc/appliance/pki/node.key;
max_tokens = 4096
tokenizer: tiny
appliance-vllm@tiny.service: Main process exited, code=killed, status=9/KILL
NVRM: Xid (PCI:0000:1b:00): 79, pid=1234, GPU has fallen off the bus.
token_seconds: 0.12
model sha256 9a9f63639f9d843087410e1416c24366eae1c405259512ad27d32d7e440c51d5
table inet appliance {
ssh-ed25519 host key was accepted
keepalive_timeout 65s;
limit_req_zone $client_key zone=requests:10m rate=50r/s;
no token came within 30 s
authentication failed for 192.0.2.7
LoadCredential=tls:/etc/appliance/pki/node.crt
proxy_pass http://tiny/v1/completions;
nginx-light 1.22.1-9+deb12u11 ii
"""


@pytest.mark.parametrize("seed", range(8))
def test_no_planted_secret_is_left_in_any_form_and_all_that_is_useful_is(seed: int) -> None:
    secrets = planted(seed)
    assert len(secrets) >= 50
    texts: dict[str, str] = {"useful": USEFUL}
    for secret in secrets:
        texts[secret.where] = texts.get(secret.where, "begin of the file\n") + secret.line + "\nan ordinary line\n"
    assert len(seen(secrets, "".join(texts.values()).encode())) == len(secrets), "the test sees what it plants"
    clean, removed = redacted(texts)
    left = seen(secrets, "".join(clean.values()).encode())
    assert left == []
    assert clean["useful"] == USEFUL and "useful" not in removed
    assert clean["journal"].count("an ordinary line") == sum(s.where == "journal" for s in secrets)
    assert '"mode": "fast"' in clean["file"] and "retries: 3" in clean["file"] and "workers: 4" in clean["file"]
    assert (
        "registry.example.internal/v2/" in clean["journal"]
        and '"MODE=plain"' in clean["unit"]
        and "--port 8000" in clean["unit"]
    )
    assert sum(n for kinds in removed.values() for n in kinds.values()) >= len(secrets)


def test_what_one_text_gives_away_is_removed_from_every_other_in_every_form() -> None:
    value = "Tr0ub4dor&3/x"
    noise = [value, base64.b64encode(b"a" + value.encode() + b"bc").decode(), value.encode().hex(), "Tr0ub4dor%263%2Fx"]
    clean, removed = redacted({"config": f"password: {value}\n", "log": "\n".join(f"tried {n} once" for n in noise)})
    assert clean["log"].count("[removed: seen elsewhere]") == 4 and "Tr0ub4dor" not in clean["log"]
    assert clean["log"].count("once") == 4 and removed["log"] == {"seen elsewhere": 4}


def test_a_text_that_is_not_collected_teaches_what_to_look_for() -> None:
    clean, _ = redacted({"log": "bob gave correcthorse and left"}, ["login_password=correcthorse\n"])
    assert clean["log"] == "bob gave [removed: seen elsewhere] and left"


def test_certificates_and_lists_stay_as_they_are(tmp_path: object) -> None:
    from pathlib import Path

    authority = Authority(Path(str(tmp_path)) / "ca")
    authority.create("site CA", "correct horse battery staple", now=utc_now())
    public = authority.certificate_path.read_text() + authority.crl_path.read_text()
    secret = (authority.directory / "ca.key").read_text()
    clean, removed = redacted({"public": public, "both": public + secret + "after\n"})
    assert clean["public"] == public and "public" not in removed
    assert clean["both"] == public + "[removed: private key]\nafter\n"


@pytest.fixture(scope="module")
def site_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("redact") / "ca")
    authority.create("site CA", "correct horse battery staple", now=utc_now())
    return authority


def test_a_certificate_that_was_read_before_is_no_secret_when_it_is_collected(site_ca: Authority) -> None:
    """A node learns from all of /etc/appliance, its certificates among it, before it looks at what it sends."""
    public = site_ca.certificate_path.read_text() + site_ca.crl_path.read_text()
    clean, removed = redacted(
        {"config": public, "log": "read " + public.splitlines()[1]}, [public, "password: site CA!"]
    )
    assert clean["config"] == public
    assert "config" not in removed


def test_a_certificate_in_a_quoted_string_stays_and_a_key_beside_it_does_not(site_ca: Authority) -> None:
    certificate, key = site_ca.certificate_path.read_text(), (site_ca.directory / "ca.key").read_text()
    text = json.dumps({"a": certificate, "b": key, "c": "after"})
    clean, removed = redacted({"x": text})
    assert json.dumps(certificate)[1:-1] in clean["x"] and '"c": "after"' in clean["x"]
    assert key.splitlines()[1] not in clean["x"] and sum(removed["x"].values()) == 1


@pytest.mark.parametrize("label", ["CERTIFICATE", "PUBLIC KEY", "X509 CRL"])
def test_a_private_key_behind_the_first_line_of_something_public_is_removed(site_ca: Authority, label: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    whole = pem.splitlines()[1]
    clean, removed = redacted({"x": pem.replace("PRIVATE KEY", label)})
    assert whole not in clean["x"] and removed["x"]
    short = f"-----BEGIN {label}-----\n{base64.b64encode(b'0' + bytes(range(60))).decode()}\n-----END {label}-----\n"
    assert redacted({"x": short})[1], "and so is what is no certificate at all"


@pytest.mark.parametrize(
    "line",
    [
        "password=",
        "password: {{ vault_password }}",
        "token: true",
        "pinned: /etc/appliance/trust/root.json",
        "key_group: appliance-tls",
        "tokens: 128",
        "session_timeout: 30",
        "ssl_password_file /etc/appliance/pki/pass;",
    ],
)
def test_what_only_sounds_secret_stays(line: str) -> None:
    assert redacted({"x": line})[0]["x"] == line


@given(st.text(max_size=400))
def test_any_text_can_be_redacted_and_once_is_enough(text: str) -> None:
    once, _ = redacted({"x": text})
    twice, _ = redacted(once)
    assert twice == once


def test_a_long_line_takes_no_long_time() -> None:
    """Journals hold lines of megabytes; none of the patterns may need a time that grows with the square of the length."""
    line = "password" * 20000 + " " + "a:" * 20000 + "=" * 20000 + "'" * 999 + "A1" * 20000
    code = "import sys; from engine.daytwo.redact import redacted; redacted({'x': sys.stdin.read()})"
    import sys

    subprocess.run([sys.executable, "-c", code], input=line, text=True, timeout=20, check=True)


def test_the_archive_depends_on_its_content_alone() -> None:
    one = archive({"b": b"2", "a": b"1"})
    assert one == archive({"a": b"1", "b": b"2"})


@pytest.mark.parametrize("seed", range(6))
def test_a_run_record_quotes_what_failed_and_hides_nothing_by_that(seed: int) -> None:
    """Secrets inside the strings of a JSON document, as a run's report has them: nothing is left, and nothing else helps."""
    secrets = planted(seed)
    record = json.dumps({"failures": [{"node": "gpu-1", "task": "Start", "reason": s.line} for s in secrets]}, indent=1)
    texts, _ = redacted({"report.txt": plain(record)})
    assert seen(secrets, texts["report.txt"].encode()) == []
    assert "/failures/0/node is\ngpu-1" in texts["report.txt"]
