"""What is read from gpgv and from a vendor's Release."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine.errors import TrustError
from installer.kinds import debaudit

A, B = "A" * 40, "B" * 40


def signature(key: str, verdict: str = "GOODSIG", digest: str = "10") -> str:
    valid = f"VALIDSIG {key} 2026-01-01 1767225600 0 4 0 1 {digest} 01 {key}"
    return "\n".join(f"[GNUPG:] {line}" for line in ("NEWSIG", f"{verdict} {key[:16]} somebody", valid)) + "\n"


@pytest.mark.parametrize(
    ("status", "signers"),
    [
        (signature(A) + signature(B), (A, B)),
        (signature(A, "EXPKEYSIG") + signature(B), (B,)),
        (signature(A) + signature(B, "REVKEYSIG"), (A,)),
        (signature(A, "EXPSIG"), ()),
        (signature(A, digest="1"), ()),  # MD5
        (signature(A, digest="2"), ()),  # SHA-1
        (signature(A) + "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 1 1 10 01 1 9 -\n[GNUPG:] NO_PUBKEY 1\n", (A,)),
        (signature(A) + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 1 somebody\n", ()),
        ("", ()),
    ],
)
def test_only_good_signatures_over_strong_digests_count(status: str, signers: tuple[str, ...]) -> None:
    assert debaudit.signers(status) == signers


def test_only_the_sha256_section_of_a_release_is_read() -> None:
    text = (
        f"Date: x\nMD5Sum:\n {'1' * 32} 5 main/a\nSHA1:\n {'2' * 40} 5 main/a\nSHA256:\n {'3' * 64}  5 main/a\n"
        f" {'4' * 63} 5 main/b\n {'5' * 64} -5 main/c\nSHA512:\n {'6' * 128} 5 main/a\n"
    )
    assert debaudit.hashes_of(text) == {"main/a": ("3" * 64, 5)}
    assert debaudit.hashes_of(text.replace("SHA256", "SHA384")) == {}


def test_names_come_from_the_stanza_that_has_the_hash(tmp_path: Path) -> None:
    index = tmp_path / "Packages.gz"
    stanzas = [
        f"Package: {n}\nVersion: {v}\nArchitecture: amd64\nDescription: x\n SHA256: {'f' * 64}\nSHA256: {h * 64}\n"
        for n, v, h in (("a", "1:2.0-1", "a"), ("b", "3", "b"))
    ]
    index.write_bytes(gzip.compress("\n".join(stanzas).encode()))
    assert debaudit.packages_of(index, {"a" * 64, "c" * 64, "f" * 64}) == {"a" * 64: "a_2.0-1_amd64.deb"}
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(TrustError, match="cannot be unpacked"):
        debaudit.packages_of(index, {"a" * 64})


def test_an_index_that_would_never_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debaudit, "MAX_INDEX", 1000)
    (tmp_path / "Packages").write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(TrustError, match="more than 1,000 bytes"):
        debaudit.packages_of(tmp_path / "Packages", set())
