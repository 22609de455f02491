"""A runtime that brings its compiler: on a node that has none, the real engine compiles the model inside its sandbox, and what it compiled
is kept for that service and that runtime alone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, ask, install_argv, site_environment
from tests.e2e.onenode import on_node, status_argv

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
UNIT = "appliance-vllm@tiny.service"
COMPILERS = "gcc g++ cc c++ clang as ld"


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """A node that has nothing yet."""
    name = f"compiler-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        yield made
    finally:
        down(name)


@pytest.fixture(scope="module")
def release(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's definition with a compiler in the image, locked and built."""
    place = tmp_path_factory.mktemp("compiling")
    definition = yaml.safe_load((TREE / "bundles/demo.yml").read_text())
    definition["name"] = "compiling"
    definition["wheels"][0] |= {"compiler": True, "pins": str(TREE / "bundles/demo.pins.txt")}
    definition["debs"]["groups"].append({"packages": ["g++", "python3-dev"], "profiles": ["gpu"]})
    definition["models"][0]["path"] = str(TREE / "build/demo/tiny")
    file = place / "compiling.yml"
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    demo.appliance("lock", file)
    found = demo.appliance("check", file, json_output=True)["findings"]
    assert not [f for f in found if f["rule"] == "compiler"], found
    demo.appliance("build", "bundle", file, "--out", place / "out")
    return place / "out" / "compiling-1.0.0"


@pytest.fixture(scope="module")
def site(demo: Demo, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's site, its service with vLLM's own choice of what is compiled."""
    where = tmp_path_factory.mktemp("compiler-site") / "site"
    shutil.copytree(TREE / "inventories/demo", where)
    file = where / "group_vars/all/site.yml"
    text, found = re.subn(r" +enforce-eager: true\n", "", file.read_text())
    assert found == 1
    file.write_text(text)
    return where


def starts(lab: Lab) -> list[str]:
    """What the engine said of compiling, in this start of the service."""
    invocation = on_node(lab, f"systemctl show -p InvocationID --value {UNIT}").strip()
    said = on_node(lab, f"journalctl --no-pager -o cat _SYSTEMD_INVOCATION_ID={invocation} | grep -i compil || true")
    return said.splitlines()


# The tests below follow one node through its life; pytest runs them in this order.


def test_the_engine_compiles_on_a_node_without_a_compiler(demo: Demo, lab: Lab, site: Path, release: Path) -> None:
    outcome = demo.appliance(*install_argv(demo, site), release, ok=(0, 5), json_output=True)
    assert outcome["good"], on_node(lab, f"journalctl --no-pager -o cat -n 400 -u {UNIT}")
    assert on_node(lab, f"for c in {COMPILERS}; do command -v $c; done; true") == ""
    assert ask(demo, lab)
    said = "\n".join(starts(lab))
    assert "torch_aot_compile" in said, said
    objects = on_node(lab, "find /var/cache/appliance-vllm/tiny -name '*.so' | wc -l")
    assert int(objects) > 0
    unit = on_node(lab, f"systemctl show -p Environment --value {UNIT}")
    assert "TORCHDYNAMO_DISABLE" not in unit
    told = demo.appliance(*status_argv(demo), "-i", site, json_output=True)
    assert told["good"] and not [w for w in told["nodes"][0].get("warnings", []) if "compil" in w], told


def test_nobody_but_the_services_can_reach_the_compiler(lab: Lab) -> None:
    gcc = on_node(lab, "ls /opt/appliance/runtimes/*/compiler/bin/gcc").strip()
    assert gcc.endswith("/compiler/bin/gcc")
    serving = on_node(lab, f"setpriv --reuid=appliance-vllm --regid=appliance-serve --clear-groups {gcc} --version")
    assert "Free Software Foundation" in serving
    tried = on_node(lab, f"setpriv --reuid=nobody --regid=nogroup --clear-groups {gcc} --version 2>&1; echo $?")
    assert "Permission denied" in tried and tried.split()[-1] != "0", tried
    # The edge is in the services' group, and even as root it finds nothing there.
    edge = "$(systemctl show -p MainPID --value appliance-nginx.service)"
    tried = on_node(lab, f"nsenter --target={edge} --mount {gcc} --version 2>&1; echo $?")
    assert "Free Software" not in tried and tried.split()[-1] != "0", tried


def test_a_restart_uses_what_was_compiled(demo: Demo, lab: Lab) -> None:
    cache = "find /var/cache/appliance-vllm/tiny -name '*.so' -printf '%p %T@\\n' | sort"
    before = on_node(lab, cache)
    on_node(lab, f"systemctl restart {UNIT}")
    assert ask(demo, lab)
    assert on_node(lab, cache) == before


def test_another_runtime_starts_with_a_cache_of_its_own(demo: Demo, lab: Lab, site: Path) -> None:
    """The demo's image has no compiler: what the other one compiled is deleted, and nothing tries to compile."""
    listed = "ls -A /var/cache/appliance-vllm/tiny"
    before = on_node(lab, listed).split()
    assert len(before) == 1
    file = site / "group_vars/all/site.yml"
    file.write_text(
        file.read_text().replace("max-model-len: 1024\n", "max-model-len: 1024\n        enforce-eager: true\n")
    )
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    after = on_node(lab, listed).split()
    assert len(after) == 1 and after != before
    assert ask(demo, lab)
