"""A configuration is taken whole or refused whole, with the line of each fault."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.gateway import keys, snapshot
from engine.gateway.checking import load
from tests import gatewaysite as lab


def _line(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_good_configuration_is_taken_and_holds_no_key(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)
    assert config.tenants[0].keys[0].sha256 == keys.digest(lab.KEY)
    assert lab.KEY not in json.dumps(config.dump())
    assert len(config.cache_salt("team-a")) == 64
    assert config.cache_salt("team-a") != config.cache_salt("team-b")


def _tenant(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["tenants"][0]
    return found


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "unknown key": (lambda d: d.update(tennants=[]), "tennants", "unknown key"),
    "missing": (lambda d: d["models"][0].pop("context_tokens"), "- name: tiny", "required key is missing"),
    "negative": (lambda d: _tenant(d).update(limits={"tokens_per_day": -1}), "tokens_per_day", "at least 0"),
    "unknown model": (lambda d: _tenant(d).update(models=["tinny"]), "- tinny", "no model 'tinny'"),
    "unknown project": (lambda d: _tenant(d)["keys"][0].update(project="x-files"), "project: x-files", "no project 'x-files'"),
    "key twice": (lambda d: d["tenants"][1]["keys"].append(lab.key_entry("b-2", lab.KEY)), keys.digest(lab.KEY), "is used twice"),
    "id twice": (lambda d: d["tenants"][1]["keys"].append(lab.key_entry("a-1", "x")), "id: a-1", "'a-1' is used twice"),
    "key lives too long": (
        lambda d: _tenant(d)["keys"][0].update(expires="2099-01-01T00:00:00Z"), "- id: a-1", "within 90 days",
    ),
    "no time zone": (lambda d: _tenant(d)["keys"][0].update(expires="2026-12-01T00:00:00"), "expires: '2026", "time zone"),
    "short hash": (lambda d: _tenant(d)["keys"][0].update(sha256="ab"), "sha256: ab", "must match"),
    "plain http to another host": (
        lambda d: d["models"][0].update(replicas=[{"url": "http://192.0.2.1:8000"}]), "url: http://192", "unix:/path",
    ),
    "https without certificate": (
        lambda d: d["models"][0].update(replicas=[{"url": "https://192.0.2.1:8443"}]), "url: https://192", "certificate",
    ),
    "more output than context": (lambda d: d["models"][0].update(output_tokens=9999), "output_tokens", "context_tokens"),
    "time zone": (lambda d: d.update(timezone="Mars/Olympus"), "timezone", "not a time zone"),
    "schema": (lambda d: d.update(schema=2), "schema", "must be 1"),
    "symmetric algorithm": (
        lambda d: d.update(issuers=[lab.issuer(Path("/x"), "HS256")]), "- HS256", "must be",
    ),
    "class": (lambda d: _tenant(d).update(highest_class="royal"), "highest_class: royal", "must be"),
    "too many minimum slots": (lambda d: d["models"][0].update(slots=1) or d.update(classes={"batch": {"minimum_slots": 9}}), "slots: 1", "fewer"),
    "project twice": (lambda d: _tenant(d)["projects"].append({"name": "search"}), "- name: search", "used twice"),
    "empty combination": (lambda d: _tenant(d).update(accept=[[]]), "accept", "combination"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_one_is_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    change, at, what = FAULTS[case]
    data = lab.site(tmp_path)
    change(data)
    path = lab.write(tmp_path, data)
    with pytest.raises(InputError) as refused:
        load(path)
    faults = refused.value.what.splitlines()
    lines = [i for i, line in enumerate(path.read_text().splitlines(), 1) if at in line]
    assert any(what in fault and int(fault.split(":")[1]) in lines for fault in faults), (faults, lines)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\na: 2\n", "duplicate key 'a'"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: [1\n", "not valid YAML"),
        ("? [a]\n: 1\n", "must be text"),
    ],
)
def test_yaml_that_has_two_readings_is_refused(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(text)
    with pytest.raises(InputError, match=what) as refused:
        load(tmp_path / "x.yml")
    assert refused.value.where.startswith(f"{tmp_path}/x.yml:")


def test_a_key_set_that_is_missing_or_holds_a_secret_refuses_the_whole(tmp_path: Path) -> None:
    path = lab.write(tmp_path, lab.site(tmp_path, issuers=[lab.issuer(tmp_path / "jwks.json")]))
    with pytest.raises(InputError, match="cannot read"):
        snapshot.read(path)
    provider = lab.Provider()
    provider.add("k", "RS256")
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [provider.keys["k"].as_dict(private=True)]}))
    with pytest.raises(InputError, match="private or symmetric key"):
        snapshot.read(path)
    (tmp_path / "jwks.json").write_text(json.dumps(provider.jwks()))
    assert snapshot.read(path)[1] == {lab.ISSUER: provider.jwks()}


def test_check_exits_with_2_and_names_the_line(tmp_path: Path) -> None:
    data = lab.site(tmp_path)
    good = _run("check", "--config", lab.write(tmp_path, data))
    assert (good.returncode, json.loads(good.stdout)["tenants"]) == (0, 2)
    data["models"][0]["slotts"] = 3
    path = lab.write(tmp_path, data)
    bad = _run("check", "--config", path)
    assert bad.returncode == 2
    assert f"{path}:{_line(path, 'slotts')}: models.0.slotts: unknown key" in json.loads(bad.stderr)["error"]["what"]


def test_a_new_key_is_shown_once_and_its_entry_is_taken(tmp_path: Path) -> None:
    data = lab.site(tmp_path)
    made = _run("key", "--config", lab.write(tmp_path, data), "--id", "a-2", "--days", "30")
    assert made.returncode == 0
    text = made.stdout.strip()
    assert keys.FORM.fullmatch(text)
    assert text.startswith("sk-lab-")
    assert text not in made.stderr
    import yaml

    data["tenants"][0]["keys"] += yaml.safe_load(made.stderr)
    assert load(lab.write(tmp_path, data)).tenants[0].keys[1].sha256 == keys.digest(text)
    for words in (("--id", "a-2", "--days", "91"), ("--id", "A 2")):
        assert _run("key", "--config", tmp_path / "gateway.yml", *words).returncode == 2


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "engine.gateway.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
