"""The authority certifies what it is told by the inventory, for as long as it may, and remembers all of it."""

from __future__ import annotations

import ipaddress
import json
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from engine import durable
from engine.errors import InputError, TrustError
from installer.cli.certs import app
from installer.cli.main import main
from installer.pki import Authority, Kind, utc_now
from installer.pki.certificate import general_name
from installer.site.controlpki import proof_client, server_tls

SECRET = "correct horse battery staple"
NOW = utc_now()
NAMES = ["gpu-1", "192.0.2.21"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca")
    made.create("test CA", SECRET, now=NOW)
    return made


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
    *,
    names: list[str] | None = None,
) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gpu-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def sign(authority: Authority, pem: bytes, *, names: list[str] = NAMES, kind: Kind = "node", days: int = 365) -> bytes:
    return authority.sign_request(
        pem, kind=kind, name="gpu-1", names=names, passphrase=SECRET, days=days, now=utc_now()
    )


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def extended_usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# -- the authority ------------------------------------------------------------------------------------------------
def test_the_authority_may_certify_end_entities_only(authority: Authority) -> None:
    ca = authority.certificate()
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert ca.not_valid_after_utc - NOW == timedelta(days=3650)
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)


def test_the_authority_s_key_is_encrypted_and_private(authority: Authority) -> None:
    path = authority.directory / "ca.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    with pytest.raises(TypeError):
        load_pem_private_key(path.read_bytes(), None)
    assert (authority.directory / "register.json").stat().st_mode & 0o777 == 0o600


def test_an_authority_is_never_overwritten(authority: Authority) -> None:
    before = (authority.directory / "ca.key").read_bytes()
    with pytest.raises(InputError, match="already"):
        authority.create("another", SECRET, now=NOW)
    assert (authority.directory / "ca.key").read_bytes() == before


def test_a_creation_killed_before_its_end_is_started_over(authority: Authority) -> None:
    authority.crl_path.unlink()  # what is written last
    assert not authority.exists()
    authority.create("test CA", SECRET, now=NOW)
    read(sign(authority, request())).verify_directly_issued_by(authority.certificate())


def test_a_wrong_passphrase_is_a_sentence(authority: Authority) -> None:
    with pytest.raises(InputError, match="passphrase is wrong"):
        authority.issue(kind="client", name="a", names=[], passphrase="another passphrase", days=1, now=NOW)


@pytest.mark.parametrize("verb", ["register", "certificate", "itself"])
def test_a_missing_authority_is_a_sentence(tmp_path: Path, verb: str) -> None:
    with pytest.raises(InputError, match="appliance certs init"):
        getattr(Authority(tmp_path / "none"), verb)()
    with pytest.raises(InputError, match="appliance certs init"):
        Authority(tmp_path / "none").revoke("a", passphrase=SECRET, now=NOW)


# -- issuing ------------------------------------------------------------------------------------------------------
def test_names_come_from_the_caller_and_never_from_the_request(authority: Authority) -> None:
    certificate = read(sign(authority, request(names=["gateway.example", "*"])))
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["gpu-1"]
    assert sans.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.21")]
    assert certificate.subject.rfc4514_string() == "CN=gpu-1,OU=node"


def test_a_node_s_certificate_passes_a_web_client_s_rules_for_its_names_alone(authority: Authority) -> None:
    certificate = read(sign(authority, request()))
    policy = PolicyBuilder().store(Store([authority.certificate()])).time(utc_now())
    for name in (x509.DNSName("gpu-1"), x509.IPAddress(ipaddress.ip_address("192.0.2.21"))):
        assert policy.build_server_verifier(name).verify(certificate, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("gpu-2")).verify(certificate, [])
    assert policy.build_client_verifier().verify(certificate, [])


def test_a_client_s_certificate_is_a_client_s_only(authority: Authority) -> None:
    _, pem = authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    certificate = read(pem)
    assert extended_usages(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.UniformResourceIdentifier) == ["appliance:client/team-a"]
    policy = PolicyBuilder().store(Store([authority.certificate()])).time(utc_now())
    assert policy.build_client_verifier().verify(certificate, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("team-a")).verify(certificate, [])


def test_an_end_entity_cannot_certify(authority: Authority) -> None:
    certificate = read(sign(authority, request()))
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False


def test_clocks_may_drift_an_hour(authority: Authority) -> None:
    certificate = read(sign(authority, request(), days=10))
    assert utc_now() - certificate.not_valid_before_utc >= timedelta(hours=1)
    assert timedelta(days=9) < certificate.not_valid_after_utc - utc_now() <= timedelta(days=10)


def test_a_key_and_its_certificate_belong_together(authority: Authority) -> None:
    key, pem = authority.issue(kind="depot", name="depot", names=["192.0.2.5"], passphrase=SECRET, days=30, now=NOW)
    assert load_pem_private_key(key, None).public_key() == read(pem).public_key()


def test_serials_are_random(authority: Authority) -> None:
    serials = {read(sign(authority, request())).serial_number for _ in range(5)}
    assert len(serials) == 5
    assert min(serials).bit_length() > 100


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa", "ed25519", "p-192", "secp256k1"],
)
def test_a_request_with_another_kind_of_key_is_refused(
    authority: Authority, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
) -> None:
    with pytest.raises(TrustError, match="P-256"):
        sign(authority, request(key))
    assert authority.register() == []


def test_a_request_that_its_key_did_not_sign_is_refused(authority: Authority) -> None:
    der = bytearray(x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER))
    at = der.index(b"gpu-1")
    der[at : at + 5] = b"gpu-2"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match="not signed by its own"):
        sign(authority, changed)


@pytest.mark.parametrize(
    "pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_request_is_refused(authority: Authority, pem: bytes) -> None:
    with pytest.raises(TrustError, match="not a certificate request"):
        sign(authority, pem)


@pytest.mark.parametrize("name", ["", "a,OU=node", "a/b", "../a", "a b", "a\n", "ä", "-a", "x" * 64])
def test_a_name_that_could_be_read_as_something_else_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(InputError, match="is no name"):
        authority.issue(kind="client", name=name, names=[], passphrase=SECRET, days=1, now=NOW)
    assert authority.register() == []


@pytest.mark.parametrize("name", ["*.example", "a..b", "", "a b", "http://a", "192.0.2.0/24", "ä.example", "x" * 64])
def test_what_is_no_host_is_refused_as_a_name(authority: Authority, name: str) -> None:
    with pytest.raises(InputError, match="neither a DNS name nor an address"):
        sign(authority, request(), names=[name])


def test_a_node_without_names_is_refused(authority: Authority) -> None:
    with pytest.raises(InputError, match="no DNS name or address"):
        sign(authority, request(), names=[])


def test_nothing_outlives_the_authority(authority: Authority) -> None:
    late = authority.certificate().not_valid_after_utc - timedelta(days=3)
    pem = authority.sign_request(
        request(), kind="node", name="gpu-1", names=NAMES, passphrase=SECRET, days=365, now=late
    )
    assert read(pem).not_valid_after_utc == authority.certificate().not_valid_after_utc
    with pytest.raises(InputError, match="expired"):
        authority.issue(kind="client", name="a", names=[], passphrase=SECRET, days=1, now=late + timedelta(days=3))


# -- renewal ------------------------------------------------------------------------------------------------------
def reason(authority: Authority, certificate: bytes, pem: bytes, *, names: list[str] = NAMES, in_days: int = 0) -> str:
    now = utc_now() + timedelta(days=in_days)
    return authority.renewal_reason(certificate, pem, names=names, renew_before_days=60, now=now)


def test_a_good_certificate_stays_whatever_the_order_and_form_of_its_names(authority: Authority) -> None:
    pem = request()
    names = ["gpu-1", "2001:db8::1"]
    certificate = sign(authority, pem, names=names)
    assert reason(authority, certificate, pem, names=["2001:DB8:0:0::1", "gpu-1", "gpu-1"]) == ""


def test_every_cause_for_a_new_certificate_is_seen_and_named(authority: Authority, tmp_path: Path) -> None:
    pem = request()
    good = sign(authority, pem)
    stranger = Authority(tmp_path / "stranger")
    stranger.create("test CA", SECRET, now=NOW)  # same name, another key
    assert reason(authority, b"", pem) == "there is none yet"
    assert reason(authority, b"nonsense", pem) == "it cannot be read"
    assert reason(authority, good, b"nonsense") == "it cannot be read"
    assert reason(authority, sign(stranger, pem), pem) == "another authority issued it"
    assert reason(authority, good, request()) == "the node has another key"
    assert reason(authority, good, pem, names=["gpu-1"]) == "its names changed"
    assert reason(authority, sign(authority, pem, kind="depot"), pem) == "it is not a node's"
    assert reason(authority, good, pem, in_days=-2) == "it is not valid yet"
    assert reason(authority, good, pem, in_days=304) == ""
    assert reason(authority, good, pem, in_days=306) == "it expires soon"
    assert reason(authority, good, pem, in_days=400) == "it expires soon"
    authority.revoke("gpu-1", passphrase=SECRET, now=NOW)
    assert reason(authority, good, pem) == "it was revoked"


def test_a_certificate_that_ends_with_its_authority_is_not_renewed_at_every_run(authority: Authority) -> None:
    end = authority.certificate().not_valid_after_utc
    pem = request()
    last = authority.sign_request(
        pem, kind="node", name="gpu-1", names=NAMES, passphrase=SECRET, days=365, now=end - timedelta(days=30)
    )
    for days, expected in ((29, ""), (1, ""), (0, "it expires soon")):
        now = end - timedelta(days=days)
        assert authority.renewal_reason(last, pem, names=NAMES, renew_before_days=60, now=now) == expected


# -- register and revocation --------------------------------------------------------------------------------------
def crl(authority: Authority) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(authority.crl_path.read_bytes())


def test_the_first_list_is_empty_signed_and_outlasts_what_it_judges(authority: Authority) -> None:
    first = crl(authority)
    public = authority.certificate().public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert first.is_signature_valid(public)
    assert len(first) == 0
    assert first.next_update_utc is not None
    assert first.next_update_utc >= authority.certificate().not_valid_after_utc


def test_revoking_a_name_revokes_everything_issued_to_it_and_nothing_else(authority: Authority) -> None:
    for name in ("team-a", "team-b", "team-a"):
        authority.issue(kind="client", name=name, names=[], passphrase=SECRET, days=30, now=NOW)
    hit = authority.revoke("team-a", passphrase=SECRET, now=NOW)
    assert [e.name for e in hit] == ["team-a", "team-a"]
    assert {f"{r.serial_number:x}" for r in crl(authority)} == {e.serial for e in hit}
    assert [bool(e.revoked) for e in authority.register()] == [True, False, True]


def test_a_serial_revokes_one_certificate_and_the_list_only_grows(authority: Authority) -> None:
    for _ in range(3):
        authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    numbers = [crl(authority).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number]
    for entry in authority.register()[:2]:
        authority.revoke(entry.serial, passphrase=SECRET, now=NOW)
        numbers.append(crl(authority).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
    assert len(crl(authority)) == 2
    assert numbers == [1, 2, 3]


def test_a_revocation_killed_between_register_and_list_is_completed_by_repeating_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    real = durable.write

    def dies_at_the_list(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
        if path == authority.crl_path:
            raise KeyboardInterrupt
        real(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", dies_at_the_list)
        with pytest.raises(KeyboardInterrupt):
            authority.revoke("team-a", passphrase=SECRET, now=NOW)
    assert len(crl(authority)) == 0
    assert authority.revoke("team-a", passphrase=SECRET, now=NOW) == []
    assert len(crl(authority)) == 1


def test_an_unknown_name_cannot_be_revoked(authority: Authority) -> None:
    before = authority.crl_path.read_bytes()
    with pytest.raises(InputError, match="nothing is called 'nobody'"):
        authority.revoke("nobody", passphrase=SECRET, now=NOW)
    assert authority.crl_path.read_bytes() == before


def _issue_three(directory: Path, name: str) -> None:
    for _ in range(3):
        Authority(directory).issue(kind="client", name=name, names=[], passphrase=SECRET, days=1, now=NOW)


def test_certificates_issued_at_the_same_time_are_all_in_the_register(authority: Authority) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_issue_three, args=(authority.directory, f"c{i}")) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert len({e.serial for e in authority.register()}) == 9


def test_a_damaged_register_is_a_sentence(authority: Authority) -> None:
    (authority.directory / "register.json").write_text('[{"serial": 1}]')
    with pytest.raises(InputError, match="register"):
        authority.register()


def test_names_that_are_addresses_become_addresses() -> None:
    assert isinstance(general_name("192.0.2.1"), x509.IPAddress)
    assert isinstance(general_name("2001:db8::1"), x509.IPAddress)
    assert isinstance(general_name("a.example"), x509.DNSName)


# -- command line -------------------------------------------------------------------------------------------------
def command(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    durable.write(tmp_path / "secret", SECRET + "\n", mode=0o600)
    return tmp_path / "secret"


@pytest.fixture
def as_installs_have_it(tmp_path: Path) -> Path:
    """The copy of the passphrase that lasts for one run, which has no end of line."""
    durable.write(tmp_path / "copy", SECRET, mode=0o600)
    return tmp_path / "copy"


def test_a_list_for_people_has_whole_serials_however_narrow_the_screen(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    authority.issue(kind="client", name="team-" + "a" * 40, names=[], passphrase=SECRET, days=30, now=NOW)
    said = command("list", "--dir", authority.directory)
    assert [entry.serial for entry in authority.register() if entry.serial not in said.split()] == []


def test_the_commands_make_an_authority_issue_list_and_revoke(tmp_path: Path, secret_file: Path) -> None:
    ca, out = tmp_path / "ca", tmp_path / "team-a"
    command("init", "--dir", ca, "--passphrase-file", secret_file)
    command("client", "team-a", "--dir", ca, "--out", out, "--days", "10", "--passphrase-file", secret_file)
    assert (out / "team-a.key").stat().st_mode & 0o777 == 0o600
    read((out / "team-a.crt").read_bytes()).verify_directly_issued_by(read((out / "ca.crt").read_bytes()))
    listed = command("list", "--dir", ca).splitlines()
    assert "appliance site CA" in listed[1]
    assert "team-a" in listed[2]
    assert "9" in listed[2].split() or "10" in listed[2].split()
    assert "Revoked 1" in command("revoke", "team-a", "--dir", ca, "--passphrase-file", secret_file)
    assert "revoked before" in command("revoke", "team-a", "--dir", ca, "--passphrase-file", secret_file)
    assert len(crl(Authority(ca))) == 1


def test_a_list_leaves_out_what_installs_issued_for_one_run_and_says_so(
    authority: Authority, as_installs_have_it: Path, tmp_path: Path
) -> None:
    server_tls(authority.directory, as_installs_have_it, "192.0.2.9")
    for n in range(2):
        (tmp_path / f"run-{n}").mkdir()
        proof_client(authority.directory, as_installs_have_it, tmp_path / f"run-{n}")
    authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    kinds = [line.split()[:2] for line in command("list", "--dir", authority.directory).splitlines()]
    assert kinds == [["kind", "name"], ["ca", "test"], ["client", "team-a"], ["3", "certificates"]]
    every = command("list", "--all", "--dir", authority.directory).splitlines()
    assert len(every) == 6 and not any("left out" in line for line in every)


def test_a_list_for_programs_has_all_and_marks_what_was_for_one_run(
    authority: Authority, as_installs_have_it: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server_tls(authority.directory, as_installs_have_it, "192.0.2.9")
    proof_client(authority.directory, as_installs_have_it, tmp_path)
    authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    with pytest.raises(SystemExit):
        main(["--json", "certs", "list", "--dir", str(authority.directory)])
    listed = json.loads(capsys.readouterr().out)
    assert [(e["kind"], e["one_run"]) for e in listed] == [
        ("ca", False),
        ("depot", True),
        ("client", True),
        ("client", False),
    ]
    assert all(e.keys() >= {"serial", "kind", "name", "not_after", "revoked", "days_left"} for e in listed)


def test_a_client_cannot_have_the_name_that_installs_use(
    authority: Authority, secret_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="installs make for themselves"):
        command(
            "client",
            "appliance-proof",
            "--dir",
            authority.directory,
            "--out",
            tmp_path / "o",
            "--passphrase-file",
            secret_file,
        )
    assert authority.register() == []


def test_a_client_s_key_is_never_overwritten(tmp_path: Path, secret_file: Path) -> None:
    ca, out = tmp_path / "ca", tmp_path / "out"
    command("init", "--dir", ca, "--passphrase-file", secret_file)
    command("client", "a", "--dir", ca, "--out", out, "--passphrase-file", secret_file)
    before = (out / "a.key").read_bytes()
    with pytest.raises(InputError, match="a key of that name already"):
        command("client", "a", "--dir", ca, "--out", out, "--passphrase-file", secret_file)
    assert (out / "a.key").read_bytes() == before


def test_a_certificate_that_is_not_issued_leaves_no_directory(
    tmp_path: Path, authority: Authority, secret_file: Path
) -> None:
    wrong = tmp_path / "wrong"
    durable.write(wrong, "another passphrase that is long enough", mode=0o600)
    for ca, secret in ((tmp_path / "none", secret_file), (authority.directory, wrong)):
        with pytest.raises(InputError):
            command("client", "a", "--dir", ca, "--out", tmp_path / "a", "--passphrase-file", secret)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("verb", [("init",), ("client", "a", "--out", "o"), ("revoke", "a")])
def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path, secret_file: Path, verb: tuple[str, ...]) -> None:
    secret_file.chmod(0o644)
    with pytest.raises(InputError, match="read by others"):
        command(*verb, "--dir", tmp_path / "ca", "--passphrase-file", secret_file)
    assert not (tmp_path / "ca").exists()


def test_the_register_is_plain_json(authority: Authority) -> None:
    authority.issue(kind="client", name="team-a", names=[], passphrase=SECRET, days=30, now=NOW)
    entries = json.loads((authority.directory / "register.json").read_text())
    assert [sorted(e) for e in entries] == [["kind", "name", "not_after", "revoked", "serial"]]
