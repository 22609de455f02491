"""apt sources as text, and what is read from apt's answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InputError, TrustError
from installer.definition import AptSource
from installer.kinds import apt, aptrepo, aptsources

KEY = Path("/keys/0.gpg")


def source(
    uri: str = "http://mirror.example.org/debian", suites: str = "stable", components: str = "main"
) -> AptSource:
    # Unchecked: a definition refuses some of these addresses before apt's file is written, which must hold by itself.
    return AptSource.model_construct(
        uri=uri, suites=tuple(suites.split("|")), components=tuple(components.split("|")), signed_by="k.gpg"
    )


def test_a_source_is_bound_to_its_keyring_and_the_targets_processor() -> None:
    text = aptsources.deb822([source(suites="stable|stable-updates", components="main|contrib")], [KEY], "arm64")
    assert text.splitlines() == [
        "Types: deb",
        "URIs: http://mirror.example.org/debian",
        "Suites: stable stable-updates",
        "Components: main contrib",
        "Architectures: arm64",
        "Signed-By: /keys/0.gpg",
    ]


def test_a_directory_has_no_components() -> None:
    text = aptsources.deb822([source(suites="./"), source(suites="x/")], [KEY, KEY], "amd64")
    assert "Components" not in text
    assert len(text.split("\n\n")) == 2
    with pytest.raises(InputError, match="mixes"):
        aptsources.deb822([source(suites="stable|./")], [KEY], "amd64")


@pytest.mark.parametrize(
    "hostile",
    [
        source(uri="http://x.example.org/\nTrusted: yes"),
        source(uri="http://x.example.org/ [trusted=yes]"),
        source(suites="stable\nTrusted: yes"),
        source(components="main\rTrusted: yes"),
        source(components="a\u2028b"),
        source(suites="|stable"),
    ],
)
def test_a_value_cannot_bring_options_of_its_own(hostile: AptSource) -> None:
    with pytest.raises(InputError, match=r"debs\.sources"):
        aptsources.deb822([hostile], [KEY], "amd64")


@pytest.mark.parametrize(
    "line",
    [
        "deb [trusted=yes] http://a.example.org ./",
        "deb [ arch=amd64 Trusted=yes signed-by=/k.gpg ] http://a.example.org ./",
        "  deb [allow-insecure=yes] http://a.example.org stable main",
        "deb\t[arch=amd64 allow-weak=1] http://a.example.org stable main",
        "deb [allow-downgrade-to-insecure=true] http://a.example.org stable main",
        "deb [trusted+=yes] http://a.example.org stable main",
    ],
)
def test_a_line_that_switches_verification_off_is_left_out(line: str) -> None:
    good = "deb [arch=amd64 signed-by=/k.gpg] http://b.example.org stable main"
    text, unsafe = aptsources.without_unsafe("x.list", f"# trusted=yes in a comment\n{line}\n{good}\n")
    assert text == f"# trusted=yes in a comment\n{good}\n"
    assert unsafe == [" ".join(line.split())]


@pytest.mark.parametrize("field", ["Trusted: yes", "trusted:yes", "Allow-Insecure: yes", "ALLOW-WEAK : yes"])
def test_a_stanza_that_switches_verification_off_is_left_out(field: str) -> None:
    good = "Types: deb\nURIs: http://b.example.org\nSuites: stable\nComponents: main"
    bad = f"Types: deb\nURIs: http://a.example.org\n{field}\nSuites: ./"
    text, unsafe = aptsources.without_unsafe("x.sources", f"{bad}\n \t\n{good}\n")
    assert text == good + "\n"
    assert len(unsafe) == 1
    assert "http://a.example.org" in unsafe[0]


def test_apts_answer_is_read_with_its_sha256() -> None:
    line = f"'http://m.example.org/pool/l/lib%2b%2b_1.2%7erc1-1_amd64.deb' lib++_2%3a1.2~rc1-1_amd64.deb 123 SHA256:{'a' * 64}"
    package = apt._package(line)
    assert (package.name, package.version, package.arch, package.size) == ("lib++", "2:1.2~rc1-1", "amd64", 123)
    assert package.sha256 == "a" * 64
    assert package.filename == "lib++_1.2~rc1-1_amd64.deb"


@pytest.mark.parametrize("hash_", ["", "MD5Sum:" + "a" * 32, "SHA1:" + "a" * 40, "SHA256:" + "a" * 63])
def test_a_package_without_sha256_is_refused(hash_: str) -> None:
    with pytest.raises(TrustError, match="SHA-256"):
        apt._package(f"'http://m.example.org/x_1_amd64.deb' x_1_amd64.deb 1 {hash_}")


@pytest.mark.parametrize("url", ["mirror+http://m.example.org/x.deb", "cdrom:/x.deb", "ftp://m.example.org/x.deb"])
def test_only_addresses_that_the_downloader_reads_are_locked(url: str) -> None:
    with pytest.raises(InputError, match="cannot lock"):
        apt._package(f"'{url}' x_1_amd64.deb 1 SHA256:{'a' * 64}")


def test_a_release_names_its_index_and_never_runs_out() -> None:
    text = aptrepo.release(b"Package: x\n", "amd64", "Packages of test-1.0", 1_760_000_000)
    assert "Date: Thu, 09 Oct 2025 08:53:20 GMT\n" in text
    assert text.endswith(" 11 Packages\n")
    assert "Valid-Until" not in text
    assert "MD5" not in text
