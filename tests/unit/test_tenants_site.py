"""A site's tenants file: checked with the site, and made into the gateway's configuration."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import InputError
from engine.gateway import checking
from installer.site import inventory as inventories
from installer.site.settings import Gateway, Site
from installer.site.tenants.render import more_endpoints
from tests import tenantsite as lab

ONE_NODE: dict[str, Any] = {
    "all": {
        "children": {
            "gateway": {"hosts": {"node-1": {"ansible_host": "10.1.0.10"}}},
            "gpu": {"hosts": {"node-1": None}},
        }
    }
}


def refusal(place: Path) -> str:
    with pytest.raises(InputError) as caught:
        inventories.load(place)
    return caught.value.what + " " + caught.value.where


def test_a_site_without_tenants_is_written_as_it_was_before_there_were_any() -> None:
    plain = {k: v for k, v in lab.SITE.items() if k != "gateway"}
    assert Site.model_validate(plain).model_dump(mode="json")["gateway"] == {"port": 8443}
    assert Site.model_validate({**plain, "gateway": {"port": 9443}}).model_dump(mode="json")["gateway"] == {
        "port": 9443
    }


@pytest.mark.parametrize("given", [{"workers": 4}, {"client_certificates": "optional"}])
def test_what_belongs_to_tenants_is_refused_without_them(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="goes with tenants"):
        Gateway.model_validate(given)


@pytest.mark.parametrize("workers", [0, 65])
def test_the_number_of_workers_is_bounded(workers: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        Gateway.model_validate({"tenants": "tenants.yml", "workers": workers})


@pytest.mark.parametrize(
    "name", ["../tenants.yml", "hosts.yml", "/etc/tenants.yml", "tenants.yml.bak", "a/tenants.yml"]
)
def test_only_a_name_that_ansible_leaves_alone_can_be_a_tenants_file(name: str) -> None:
    with pytest.raises(ValueError, match="tenants"):
        Gateway.model_validate({"tenants": name})


def test_the_rendered_configuration_is_what_the_gateway_itself_accepts(tmp_path: Path) -> None:
    found = inventories.load(lab.write(tmp_path / "site")).tenants
    assert found is not None
    (tmp_path / "gateway.yml").write_text(found.text)
    read = checking.load(tmp_path / "gateway.yml")
    assert read == found.configuration
    (model,) = read.models
    assert (model.name, model.context_tokens, model.output_tokens, model.slots) == ("tiny", 1024, 1024, 32)
    assert [r.url for r in model.replicas] == ["https://10.1.0.21:8444/chat", "https://[2001:db8::22]:8444/chat"]
    assert {(str(r.certificate), str(r.key), str(r.ca), r.server_name) for r in model.replicas} == {
        ("node.crt", "node.key", "/etc/appliance/pki/ca.crt", "inference.appliance.internal")
    }
    assert [t.name for t in read.tenants] == ["team-a", "team-b", "appliance-proof"]
    assert read.tenants[2].accept == (("certificate",),)
    assert [c.san for c in read.tenants[2].certificates] == ["URI:appliance:client/appliance-proof"]
    assert found.peers == ("10.1.0.21", "2001:db8::22")
    assert found.wait_s > 600 + 600  # as long as a batch request may wait, and then its first byte
    assert more_endpoints(found) == []


def test_a_node_that_is_everything_is_asked_on_its_own_socket(tmp_path: Path) -> None:
    found = inventories.load(lab.write(tmp_path / "site", hosts=ONE_NODE)).tenants
    assert found is not None
    assert [r.url for r in found.configuration.models[0].replicas] == ["unix:/run/appliance-vllm/chat/api.sock"]
    assert found.peers == ()


def test_replicas_of_a_node_count_each_with_its_slots_and_only_nodes_that_run_a_service_are_asked(
    tmp_path: Path,
) -> None:
    shares = {"cpus": 1, "memory_max": "4G", "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    first = {**lab.SITE["services"][0], "replicas": 2, "nodes": ["gpu-2"], **shares}
    other = {
        "name": "other",
        "model": "m",
        "served_name": "big",
        "args": {"max-model-len": 64},
        **copy.deepcopy(shares),
    }
    place = lab.write(tmp_path / "site", services=[first, other])
    found = inventories.load(place).tenants
    assert found is not None
    urls = {m.name: [r.url for r in m.replicas] for m in found.configuration.models}
    assert urls == {
        "tiny": ["https://[2001:db8::22]:8444/chat"] * 2,
        "big": ["https://10.1.0.21:8444/other", "https://[2001:db8::22]:8444/other"],
    }
    found = inventories.load(
        lab.write(tmp_path / "one", hosts=ONE_NODE, services=[{**first, "nodes": ["node-1"]}])
    ).tenants
    assert found is not None
    assert [r.url for r in found.configuration.models[0].replicas] == [
        "unix:/run/appliance-vllm/chat/api.sock",
        "unix:/run/appliance-vllm/chat-2/api.sock",
    ]


def test_the_order_of_keys_and_comments_does_not_change_what_is_rendered(tmp_path: Path) -> None:
    one = inventories.load(lab.write(tmp_path / "a")).tenants
    two = inventories.load(
        lab.write(tmp_path / "b", lab.TENANTS.replace("# Who may ask.\nschema: 1\n", "# x\n") + "schema: 1\n")
    ).tenants
    assert one is not None and two is not None
    assert one.digest == two.digest


@pytest.mark.parametrize(
    ("task", "endpoints", "more"),
    [
        (None, ("chat", "completions"), []),
        ("embed", ("embeddings",), []),
        ("rerank", ("rerank", "score"), ["/v1/rerank", "/v1/score"]),
    ],
)
def test_what_a_model_does_decides_about_its_endpoints(
    tmp_path: Path, task: str | None, endpoints: tuple[str, ...], more: list[str]
) -> None:
    service = {**lab.SITE["services"][0], **({"task": task} if task else {})}
    found = inventories.load(lab.write(tmp_path, services=[service])).tenants
    assert found and found.configuration.models[0].endpoints == endpoints
    assert [e["path"] for e in more_endpoints(found)] == more


def test_endpoints_that_clients_do_not_have_without_tenants_are_named_for_gpu_nodes(tmp_path: Path) -> None:
    models = "models:\n  - {name: tiny, endpoints: [chat, rerank, tokenize]}\n"
    found = inventories.load(lab.write(tmp_path / "site", lab.TENANTS + models)).tenants
    assert found is not None
    assert [e["path"] for e in more_endpoints(found)] == ["/v1/rerank", "/tokenize"]


FAULTS = [
    ("site: lab", "site: Lab!", r"tenants\.yml:3: site: must match"),
    ("cache_salt_seed: 0123456789abcdef\n", "", r"tenants\.yml:2: cache_salt_seed: required key is missing"),
    ("models: [tiny]\n    keys", "models: [tiny, huge]\n    keys", r"tenants\.yml:8: tenants\.0\.models\.1: 'huge' is not the served_name of a service; the site serves tiny"),
    ("{tokens_per_day: 1000000}", "{tokens_per_dya: 1}", r"tenants\.yml:12: tenants\.0\.limits\.tokens_per_dya: unknown key"),
    ("name: team-b", "name: team-a", r"tenants\.yml:15: tenants\.1\.name: 'team-a' is used twice"),
    ("name: team-b", "name: appliance-proof", r"tenants\.yml:15: tenants\.1\.name: 'appliance-proof' is the tenant of the install's own request"),
    ("client/team-a", "client/appliance-proof", r"tenants\.yml:11: tenants\.0\.certificates\.0\.san: is the certificate of the install's own"),
    ("schema: 1\n", "schema: 1\nledger: {}\n", r"tenants\.yml:3: ledger: unknown key"),
    ("schema: 1\n", "schema: 1\nmodels: [{name: tiny, replicas: []}]\n", r"tenants\.yml:3: models\.0\.replicas: unknown key"),
    ("schema: 1\n", "schema: 1\nmodels: [{name: other, context_tokens: 5}]\n", r"tenants\.yml:3: models\.0\.name: 'other' is not the served_name"),
    ("schema: 1\n", "schema: 1\nmodels: [{name: tiny, output_tokens: 4000}]\n", r"tenants\.yml:3: models\.0\.output_tokens: must not be more than"),
    ("schema: 1\n", "schema: 1\nmodels: nothing\n", r"tenants\.yml:3: models: "),
    ("tenants:\n", "tenants:\n  - 5\n", r"tenants\.yml:6: tenants\.0: "),
    ("schema: 1\n", "schema: 1\nschema: 1\n", r"duplicate key 'schema'.*tenants\.yml:3"),
    ("schema: 1\n", 'schema: 1\nissuers: [{issuer: "https://a.example.org", audience: b, jwks: ../x.json}]\n', r"tenants\.yml:3: issuers\.0\.jwks: must be jwks/NAME\.json"),
    ("schema: 1\n", 'schema: 1\nissuers: [{issuer: "https://a.example.org", audience: b, jwks: jwks/x.json}]\n', r"tenants\.yml:3: issuers\.0\.jwks: cannot read jwks/x\.json"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), FAULTS, ids=lambda v: str(v)[:40])
def test_a_fault_in_the_tenants_file_is_refused_with_file_line_and_key(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert lab.TENANTS.count(old) == 1
    what = refusal(lab.write(tmp_path / "site", lab.TENANTS.replace(old, new)))
    assert re.search(said, what, re.DOTALL), what


def test_a_model_whose_size_nobody_says_is_refused(tmp_path: Path) -> None:
    services = [{"name": "chat", "model": "m", "served_name": "tiny"}]
    assert "tiny" in refusal(lab.write(tmp_path / "site", services=services))
    models = "models:\n  - {name: tiny, context_tokens: 2048}\n"
    found = inventories.load(lab.write(tmp_path / "site", lab.TENANTS + models, services=services)).tenants
    assert found is not None
    assert (found.configuration.models[0].context_tokens, found.configuration.models[0].slots) == (2048, 256)


def test_a_missing_tenants_file_is_refused(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site")
    (place / "tenants.yml").unlink()
    assert "cannot read the tenants file" in refusal(place)


def test_two_gateway_hosts_are_refused_because_each_would_count_for_itself(tmp_path: Path) -> None:
    hosts = json.loads(json.dumps(lab.HOSTS))
    hosts["all"]["children"]["gateway"]["hosts"]["gw-2"] = {"ansible_host": "10.1.0.11"}
    assert "2 gateway hosts" in refusal(lab.write(tmp_path / "site", hosts=hosts))


def test_key_sets_travel_by_name_and_private_keys_never(tmp_path: Path) -> None:
    issuer = 'issuers:\n  - {issuer: "https://a.example.org", audience: b, jwks: jwks/a.json, algorithms: [ES256], rules: [{id: r, claim: g, value: v, tenant: team-a}]}\n'
    place = lab.write(tmp_path / "site", lab.TENANTS + issuer)
    (place / "jwks").mkdir()
    (place / "jwks/a.json").write_text('{"keys": [{"kty": "EC", "kid": "1", "d": "secret-part"}]}')
    what = refusal(place)
    assert "private or shared key" in what
    assert "secret-part" not in what
    (place / "jwks/a.json").write_text('{"keys": [{"kty": "EC", "kid": "1"}]}')
    found = inventories.load(place).tenants
    assert found is not None
    assert found.key_sets == {"a.json": b'{"keys": [{"kty": "EC", "kid": "1"}]}'}
    assert str(found.configuration.issuers[0].jwks) == "/etc/appliance/gateway/jwks/a.json"


def test_ansible_takes_neither_file_for_a_list_of_hosts(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site")
    (place / "jwks").mkdir()
    (place / "jwks/a.json").write_text('{"all": {"hosts": {"stranger": null}}}')
    (place / "tenants.yml").write_text(lab.TENANTS)
    assert sorted(h.name for h in inventories.load(place).hosts) == ["gpu-1", "gpu-2", "gw-1"]


def test_an_encrypted_file_is_read_and_its_faults_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = lab.write(tmp_path / "site")
    password = tmp_path / "password"
    password.write_text("a password for tests\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))

    def encrypt() -> None:
        argv = [f"{sysconfig.get_path('scripts')}/ansible-vault", "encrypt", str(place / "tenants.yml")]
        subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})

    encrypt()
    found = inventories.load(place).tenants
    assert found is not None and found.encrypted
    assert yaml.safe_load(found.text)["tenants"][0]["name"] == "team-a"
    (place / "tenants.yml").write_text(lab.TENANTS.replace("site: lab", "site: Lab!"))
    encrypt()
    assert "tenants.yml:3: site" in refusal(place)
    password.write_text("another\n")
    assert "decrypt" in refusal(place)
