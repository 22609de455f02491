"""The metrics of GPUs as Prometheus gets them, as others do not, and what the units that bring them may do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from installer.pki import Authority, utc_now

NODE = json.loads(os.environ["NODE"])
SITE = Path(NODE["site"])
ROLE = Path(NODE["repository"]) / "roles/dcgm_exporter"
PASSPHRASE = (SITE / "passphrase").read_text().strip()
# What promtool would have named otherwise; the names are DCGM's.
TASTE = {
    'counter metrics should have "_total" suffix',
    "metric name should not include type 'counter'",
    "label names should be written in 'snake_case' not 'camelCase'",
    'non-histogram and non-summary metrics should not have "_count" suffix',
}
UNITS = ("appliance-dcgm", "appliance-dcgm-exporter", "appliance-dcgm-front")


def on(script: str, *, ok: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*NODE["ssh"], shlex.join(["bash", "-c", script])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or not ok, done.stderr
    return done


def identity(directory: Path, name: str, kind: str) -> tuple[Path, Path]:
    key, certificate = Authority(SITE / "ca").issue(
        kind=kind, name=name, names=[f"{name}.example.internal"], passphrase=PASSPHRASE, days=1, now=utc_now()
    )
    (directory / f"{name}.key").write_bytes(key)
    (directory / f"{name}.crt").write_bytes(certificate)
    return directory / f"{name}.crt", directory / f"{name}.key"


def ask(who: tuple[Path, Path] | None, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(SITE / "ca/ca.crt"))
    if who:
        context.load_cert_chain(*who)
    connection = http.client.HTTPSConnection(NODE["address"], 9400, context=context, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return identity(tmp_path_factory.mktemp("mon"), "mon-1", "node")


def test_what_is_scraped_is_what_the_list_names_and_promtool_can_read(prometheus):
    status, text = ask(prometheus)
    assert status == 200
    listed = [
        line.split(",")[0] for line in (ROLE / "files/counters.csv").read_text().splitlines() if line[:4] == "DCGM"
    ]
    scraped = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert scraped == [f for f in listed if f != "DCGM_FI_DRIVER_VERSION"]
    assert 'DCGM_FI_DRIVER_VERSION="580.95.05"' in text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode in (0, 3), checked.stderr  # 1 is what cannot be parsed; 3 is a matter of taste
    complaints = {line.partition(" ")[2] for line in checked.stderr.splitlines()}
    assert complaints <= TASTE


def test_a_real_prometheus_takes_them_and_raises_the_alert(prometheus, tmp_path):
    certificate, key = prometheus
    rules = ROLE / "files/gpu-alerts.yml"
    (tmp_path / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{
            "job_name": "appliance-gpu", "scheme": "https",
            "tls_config": {"ca_file": str(SITE / "ca/ca.crt"), "cert_file": str(certificate), "key_file": str(key)},
            "static_configs": [{"targets": [f"{NODE['address']}:9400"]}],
        }],
    }))  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("w")) as process:
        try:
            deadline = time.monotonic() + 40
            firing: list[str] = []
            while not firing and time.monotonic() < deadline:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5) as answer:
                        alerts = json.load(answer)["data"]["alerts"]
                    firing = [
                        f"{a['labels']['alertname']} {a['labels']['gpu']} {a['labels']['xid']}"
                        for a in alerts
                        if a["state"] == "firing"
                    ]
                time.sleep(0.2)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5) as answer:
                [target] = json.load(answer)["data"]["activeTargets"]
        finally:
            process.terminate()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert firing == ["GpuXidFatal 1 79"]


def test_nobody_else_is_let_in(prometheus, tmp_path):
    assert ask(None)[0] == 400
    assert ask(identity(tmp_path, "gpu-9", "node"))[0] == 403  # a node, but not one that watches
    assert ask(identity(tmp_path, "team-a", "client"))[0] == 403
    assert ask(prometheus, "/")[0] == 404
    assert ask(prometheus, "/health")[0] == 404
    assert ask(prometheus, method="POST")[0] == 405


def test_a_certificate_of_nobody_and_an_old_protocol_are_refused(tmp_path):
    run = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/OU=node/CN=mon-1",
    ]
    subprocess.run([*run, "-keyout", tmp_path / "key", "-out", tmp_path / "crt"], check=True, capture_output=True)
    assert ask((tmp_path / "crt", tmp_path / "key"))[0] == 400
    old = ssl.create_default_context(cafile=str(SITE / "ca/ca.crt"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection((NODE["address"], 9400), 5) as raw:
        old.wrap_socket(raw, server_hostname=NODE["address"])


def test_a_new_list_of_revoked_certificates_and_a_new_certificate_count_without_a_restart(prometheus, tmp_path):
    leaving = identity(tmp_path, "mon-1", "node")
    assert ask(leaving)[0] == 200
    before = on("systemctl show --property=MainPID --value appliance-dcgm-front").stdout
    serial = subprocess.run(
        ["openssl", "x509", "-in", leaving[0], "-noout", "-serial"], check=True, capture_output=True, text=True
    )
    Authority(SITE / "ca").revoke(
        serial.stdout.strip().partition("=")[2].lower().lstrip("0"), passphrase=PASSPHRASE, now=utc_now()
    )
    subprocess.run(
        [*NODE["ssh"], "cat > /etc/appliance/pki/.crl && mv /etc/appliance/pki/.crl /etc/appliance/pki/crl.pem"],
        input=(SITE / "ca/crl.pem").read_bytes(),
        check=True,
    )
    deadline = time.monotonic() + 20
    while (status := ask(leaving)[0]) != 400 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status == 400
    assert ask(prometheus)[0] == 200
    assert on("systemctl show --property=MainPID --value appliance-dcgm-front").stdout == before


def test_the_port_is_the_only_one_that_listens_for_metrics():
    listening = on("ss --no-header --listening --numeric --tcp").stdout
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert f"{NODE['address']}:9400" in addresses
    assert not [
        a
        for a in addresses
        if a.endswith((":5555", ":9401")) or (a.endswith(":9400") and not a.startswith(NODE["address"]))
    ]


def test_host_engine_and_exporter_share_a_network_that_nobody_else_sees():
    spaces = on(
        "for u in appliance-dcgm appliance-dcgm-exporter; do readlink /proc/$(systemctl show --property=MainPID --value $u)/ns/net; done; readlink /proc/1/ns/net"
    ).stdout.split()
    assert spaces[0] == spaces[1] != spaces[2]
    engine = "nsenter --net --target $(systemctl show --property=MainPID --value appliance-dcgm)"
    assert [link["ifname"] for link in json.loads(on(f"{engine} ip -json link").stdout)] == ["lo"]
    assert (
        "double of a host engine"
        in on(
            f"{engine} python3 -c \"import socket; print(socket.create_connection(('127.0.0.1', 5555)).recv(99))\""
        ).stdout
    )
    assert on("stat -c '%U %G %a' /run/appliance-dcgm-exporter/metrics.sock").stdout.split() == [
        "root",
        "appliance-metrics",
        "660",
    ]
    refused = on(
        "setpriv --reuid=nobody --regid=nogroup --clear-groups python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('/run/appliance-dcgm-exporter/metrics.sock')\"",
        ok=False,
    )
    assert "Permission denied" in refused.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_no_rights_and_little_to_attack(unit):
    status = on(f"cat /proc/$(systemctl show --property=MainPID --value {unit})/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(fields[c], 16) for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert fields["Uid"].split()[0] != "0"
    exposure = on(f"systemd-analyze security --no-pager {unit}").stdout
    assert float(re.search(r"exposure level for \S+ ([0-9.]+)", exposure)[1]) <= 2.0, exposure


def test_the_vendors_services_stay_off_and_nothing_writes_a_log_of_its_own():
    for unit in ("nvidia-dcgm", "nvidia-dcgm-exporter"):
        assert on(f"systemctl is-enabled {unit}", ok=False).stdout.strip() == "masked"
        assert on(f"systemctl is-active {unit}", ok=False).stdout.strip() == "inactive"
    assert (
        on(
            "find / -xdev -newer /etc/appliance/dcgm -name '*.log' \\( -path '*dcgm*' -o -path '*hostengine*' \\)"
        ).stdout
        == ""
    )
    assert "Started host engine" in on("journalctl -u appliance-dcgm -o cat").stdout


def test_the_exporter_comes_back_with_its_host_engine(prometheus):
    on("systemctl restart appliance-dcgm")
    on("for n in $(seq 100); do systemctl is-active -q appliance-dcgm-exporter && exit 0; sleep 0.1; done; exit 1")
    deadline = time.monotonic() + 20
    while ask(prometheus)[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask(prometheus)[0] == 200
