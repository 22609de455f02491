"""`appliance site new`: what is written fits the bundle, is whole or not there, and passes `site check` as it is."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import verify
from engine.errors import InputError
from installer.cli.main import main
from installer.site import fitting, holds, new, newfiles
from installer.site.fitting import Model, Serving
from installer.site.inventory import load
from installer.site.newfiles import Control, Node
from tests import served
from tests.bundles import Bundle, make

NODES = ("--node", "gpu-1=10.20.0.1", "--node", "gpu-2=10.20.0.2")


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has routes to all nodes, whatever the machine of the test has."""
    monkeypatch.setattr(new, "local_address", lambda _remote: "10.20.0.250")


def bundle(where: Path, **content: Any) -> tuple[Bundle, Path]:
    made = make(where / "media", served.files(**content))
    root = where / "root.json"
    root.write_bytes(made.root)
    return made, root


def site_new(*argv: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and the document that --json prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        main(["site", "new", *map(str, argv), "--json"])
    return int(str(end.value.code or 0)), json.loads(out.getvalue())


def written(where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """hosts.yml and the variables of site.yml."""
    hosts = yaml.safe_load((where / "hosts.yml").read_text())
    return hosts, yaml.safe_load((where / "group_vars/all/site.yml").read_text())


def sound(where: Path, made: Bundle) -> None:
    """`site check` passes, without a warning, and the release holds what the site serves."""
    inventory = load(where)
    assert inventory.leftovers == ()
    trusted = verify.open_bundle(made.path, made.root)
    holds.demand(inventory, trusted.release, trusted.targets)


# -- for a bundle -----------------------------------------------------------------------------------
def test_a_site_for_a_bundle_on_processors_is_sound_at_the_first_try(tmp_path: Path) -> None:
    made, root = bundle(tmp_path, image=True)
    code, said = site_new(tmp_path / "site", "--from", made.path, "--root", root, *NODES)
    assert code == 0 and said["unset"] == [] and said["next"] == f"appliance site check -i {tmp_path / 'site'}"
    assert said["nodes"] == [{"name": "gpu-1", "address": "10.20.0.1"}, {"name": "gpu-2", "address": "10.20.0.2"}]
    sound(tmp_path / "site", made)
    hosts, variables = written(tmp_path / "site")
    site = variables["appliance_site"]
    groups = {group: list(members["hosts"]) for group, members in hosts["all"]["children"].items()}
    assert groups == {"gateway": ["gpu-1"], "gpu": ["gpu-1", "gpu-2"]}
    assert site["control"]["address"] == said["control"] == "10.20.0.250"
    assert site["management_sources"] == site["client_sources"] == ["10.20.0.250/32"]
    assert (site["runtime"], site["runtime_form"]) == ("vllm", "image")
    assert site["services"] == [
        {
            "name": "tiny", "model": "tiny", "served_name": "tiny",
            "args": {"max-model-len": 2048, "dtype": "bfloat16", "enforce-eager": True},
            "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        }
    ]  # fmt: skip


def test_networks_of_clients_come_beside_the_control_host(tmp_path: Path) -> None:
    made, root = bundle(tmp_path)
    code, _ = site_new(
        tmp_path / "site",
        "--from",
        made.path,
        "--root",
        root,
        *NODES,
        "--clients",
        "10.30.0.0/16",
        "--clients",
        "10.20.0.250/32",
    )
    assert code == 0
    sound(tmp_path / "site", made)
    assert written(tmp_path / "site")[1]["appliance_site"]["client_sources"] == ["10.20.0.250/32", "10.30.0.0/16"]
    code, told = site_new(tmp_path / "other", "--from", made.path, "--root", root, "--clients", "10.30.0.1/16")
    assert (code, told["error"]["where"]) == (2, "--clients") and "10.30.0.0/16" in told["error"]["remedy"]
    assert not (tmp_path / "other").exists()


def test_a_site_for_a_bundle_on_gpus_opens_them_and_installs_the_compiler_that_the_bundle_brings(
    tmp_path: Path,
) -> None:
    made, root = bundle(
        tmp_path, wheels=served.CUDA_WHEELS, runtime="cuda", models={"llama-3.1": {"max_position_embeddings": 131072}},
        debs=("gcc", "libpython3.12-dev", "python3-dev", "libcuda1"),
        target={"os": "ubuntu-24.04", "python": "3.12", "kernel": "6.8.0-90-generic", "gpu": served.GPU},
    )  # fmt: skip
    code, said = site_new(tmp_path / "site", "--from", made.path, "--root", root, *NODES)
    assert code == 0 and said["service"]["gpu"] is True
    sound(tmp_path / "site", made)
    _, variables = written(tmp_path / "site")
    site = variables["appliance_site"]
    assert variables["appliance_vllm_packages"] == ["gcc", "python3-dev"]
    assert (site["runtime"], site["runtime_form"]) == ("cuda", "wheels")
    (service,) = site["services"]
    assert service["devices"] == ["nvidia"] and "environment" not in service
    assert (service["name"], service["model"]) == ("llama-3-1", "llama-3.1")
    assert service["args"] == {"max-model-len": 4096, "max-num-seqs": 128}
    text = (tmp_path / "site/group_vars/all/site.yml").read_text()
    assert "#   version: 580.178.04\n" in text and "#   kernel: 6.8.0-90-generic\n" in text


def test_the_commented_driver_is_one_that_the_site_takes(tmp_path: Path) -> None:
    """Whoever takes the comment signs away has a site that passes, too."""
    made, root = bundle(
        tmp_path,
        wheels=served.CUDA_WHEELS,
        debs=("libcuda1",),
        target={"kernel": "6.8.0-90-generic", "gpu": served.GPU},
    )
    assert site_new(tmp_path / "site", "--from", made.path, "--root", root, *NODES)[0] == 0
    file = tmp_path / "site/group_vars/all/site.yml"
    lines = file.read_text().splitlines()
    at = lines.index("  # gpu_driver:")
    lines[at : at + 4] = [line.replace("# ", "", 1) for line in lines[at : at + 4]]
    file.write_text("\n".join(lines))
    assert load(tmp_path / "site").site.gpu_driver is not None


def test_without_nodes_the_placeholders_are_named_in_the_files_and_in_the_answer(tmp_path: Path) -> None:
    made, root = bundle(tmp_path)
    code, said = site_new(tmp_path / "site", "--from", made.path, "--root", root)
    assert code == 0 and said["nodes"] == [] and said["control"] is None
    assert [(u["file"], u["key"].rpartition(".")[2]) for u in said["unset"]] == [
        ("hosts.yml", "ansible_host"), ("group_vars/all/site.yml", "address"),
        ("group_vars/all/site.yml", "0"), ("group_vars/all/site.yml", "0"),
    ]  # fmt: skip
    for file in ("hosts.yml", "group_vars/all/site.yml"):
        assert newfiles.CHANGE in (tmp_path / "site" / file).read_text()
    assert len(load(tmp_path / "site").leftovers) == 4


def test_one_model_is_served_and_the_others_are_named(tmp_path: Path) -> None:
    made, root = bundle(
        tmp_path, models={"b": served.CONFIG, "a": served.CONFIG}, more={"models/half/config.json": b"{}"}
    )
    code, said = site_new(tmp_path / "site", "--from", made.path, "--root", root, *NODES)
    assert code == 0 and said["service"]["model"] == "a" and said["service"]["other_models"] == ["b"]
    assert "The bundle has these, too: b.\n" in (tmp_path / "site/group_vars/all/site.yml").read_text()
    sound(tmp_path / "site", made)


def test_the_depot_s_root_is_taken_when_none_is_given(tmp_path: Path) -> None:
    made, root = bundle(tmp_path)
    (tmp_path / "depot").mkdir()
    root.rename(tmp_path / "depot/root.json")
    assert site_new(tmp_path / "site", "--from", made.path, "--depot", tmp_path / "depot", *NODES)[0] == 0


def test_ipv6_nodes_make_a_site_of_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "local_address", lambda _remote: "fd00:20::")
    made, root = bundle(tmp_path)
    assert site_new(tmp_path / "site", "--from", made.path, "--root", root, "--node", "1=FD00:20::1")[0] == 0
    sound(tmp_path / "site", made)
    inventory = load(tmp_path / "site")
    assert [(h.name, h.address) for h in inventory.hosts] == [("1", "fd00:20::1")]
    assert inventory.site.management_sources == ("fd00:20::/128",)


# -- what is refused --------------------------------------------------------------------------------
def refused(tmp_path: Path, *argv: str | Path, code: int = 2) -> dict[str, Any]:
    """The error; nothing is left in any case."""
    ended, said = site_new(tmp_path / "site", *argv)
    assert ended == code and not (tmp_path / "site").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
    error: dict[str, Any] = said["error"]
    assert error["remedy"] and error["exit_code"] == code
    return error


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    _, root = bundle(tmp_path)
    assert refused(tmp_path, "--from", tmp_path / "none", "--root", root)["what"] == "there is no such bundle"


def test_a_bundle_of_another_root_is_not_read(tmp_path: Path) -> None:
    made, _ = bundle(tmp_path)
    (tmp_path / "b").mkdir()
    _, other = bundle(tmp_path / "b")
    (made.path / "content/manifest.json").write_bytes(b"{")  # nobody gets so far as to read it
    error = refused(tmp_path, "--from", made.path, "--root", other, *NODES, code=3)
    assert "manifest" not in error["what"] + error["where"]


@pytest.mark.parametrize("file", ["manifest.json", "models/tiny/config.json"])
def test_a_changed_file_is_refused_before_it_is_understood(tmp_path: Path, file: str) -> None:
    made, root = bundle(tmp_path)
    (made.path / "content" / file).write_bytes(b'{"max_position_embeddings": 1}')
    error = refused(tmp_path, "--from", made.path, "--root", root, *NODES, code=3)
    assert "not as signed" in error["what"] and error["where"] == f"content/{file}"


def test_a_bundle_without_a_whole_model_or_without_vllm_is_refused(tmp_path: Path) -> None:
    made, root = bundle(tmp_path, models={}, more={"models/half/config.json": b"{}"})
    error = refused(tmp_path, "--from", made.path, "--root", root, *NODES)
    assert "no model" in error["what"] and error["where"] == "demo-1.0.0"
    (tmp_path / "b").mkdir()
    made, root = bundle(tmp_path / "b", wheels=("torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",))
    assert "no wheel set with vLLM" in refused(tmp_path, "--from", made.path, "--root", root, *NODES)["what"]


def test_no_root_of_trust_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made, _ = bundle(tmp_path)
    error = refused(tmp_path, "--from", made.path, "--depot", tmp_path / "depot", *NODES)
    assert error["what"] == "no pinned root of trust"
    assert "without --from" in refused(tmp_path, "--root", tmp_path / "root.json")["what"]


@pytest.mark.parametrize("make_it", [Path.mkdir, Path.touch, lambda p: p.symlink_to("nowhere")])
def test_a_place_that_is_taken_is_left_alone(tmp_path: Path, make_it: Any) -> None:
    make_it(tmp_path / "site")
    before = (tmp_path / "site").lstat()
    code, said = site_new(tmp_path / "site", *NODES)
    assert code == 2 and said["error"]["what"] == "there is something already"
    assert (tmp_path / "site").lstat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (["gpu-1"], "'gpu-1' is not NAME=ADDRESS"),
        (["=10.0.0.1"], "is not NAME=ADDRESS"),
        (["gpu-1="], "is not NAME=ADDRESS"),
        (["gpu-1=gpu-1.ours"], "which is not an address"),
        (["gpu-1=10.0.0.256"], "which is not an address"),
        (["gpu-1=127.0.0.1"], "every machine itself"),
        (["gpu-1=fe80::1"], "link-local"),
        (["gpu-1=::ffff:10.0.0.1"], "IPv4-mapped"),
        (["gpu 1=10.0.0.1"], "which no certificate can hold"),
        (["gpu=10.0.0.1"], "gpu is the name of a group"),
        (["all=10.0.0.1"], "all is the name of a group"),
        (["a=10.0.0.1", "a=10.0.0.2"], "two nodes have the name a"),
        (["a=fd00::1", "b=fd00:0::1"], "two nodes have the address fd00::1"),
    ],
)
def test_a_wrong_node_is_refused_by_the_rules_of_site_check(tmp_path: Path, nodes: list[str], said: str) -> None:
    error = refused(tmp_path, *[word for text in nodes for word in ("--node", text)])
    assert said in error["what"] and error["where"].startswith("--node")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> None:
        if path.name == "site.yml":
            raise OSError(28, "No space left on device", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr("engine.durable.write", full)
    assert refused(tmp_path, *NODES, code=6)["what"] == "the disk is full"


# -- the example ------------------------------------------------------------------------------------
def test_without_a_bundle_the_example_is_written_as_it_is(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "inventories/example"
    code, said = site_new(tmp_path / "site")
    assert code == 0 and said["release"] is None and said["service"] is None
    for file in ("hosts.yml", "group_vars/all/site.yml"):
        assert (tmp_path / "site" / file).read_bytes() == (example / file).read_bytes()
    assert "hosts.yml" in {u["file"] for u in said["unset"]}


def test_the_example_takes_nodes_and_the_control_host_s_address(tmp_path: Path) -> None:
    code, said = site_new(tmp_path / "site", *NODES)
    assert code == 0
    inventory = load(tmp_path / "site")
    assert [(h.name, h.groups) for h in inventory.hosts] == [("gpu-1", ("gateway", "gpu")), ("gpu-2", ("gpu",))]
    assert inventory.site.control.address == "10.20.0.250" == inventory.site.egress[0].destinations[0]
    assert inventory.site.management_sources == ("10.20.0.250/32",)
    assert [u["value"] for u in said["unset"]] == ["198.51.100.0/24"]  # whose networks the clients have, nobody told


# -- the pure parts ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "tokenizer", "length"),
    [
        ({"max_position_embeddings": 512}, None, 512),
        ({"n_positions": 1024}, {"model_max_length": 256}, 256),
        ({"max_position_embeddings": 8192, "text_config": {"max_position_embeddings": 2048}}, {}, 2048),
        ({"max_position_embeddings": 8192}, {"model_max_length": 10**30}, 8192),
        ({"max_position_embeddings": True, "seq_length": -4, "seq_len": "7"}, {"model_max_length": 1e30}, 0),
        (["no"], "no", 0),
        (None, None, 0),
    ],
)
def test_the_length_of_a_model_is_the_smallest_that_its_files_say(config: Any, tokenizer: Any, length: int) -> None:
    assert fitting.model("m", config, tokenizer).length == length


def serving(**change: Any) -> Serving:
    values = {
        "release": "demo-1.0.0", "model": Model("m"), "others": (), "runtime": "vllm", "form": "image", "gpu": True, "compiles": True,
        **change,
    }  # fmt: skip
    return Serving(**values)


def test_limits_are_the_model_s_own_and_no_more_than_a_start_needs() -> None:
    assert serving(model=Model("m", 512)).max_model_len == 512
    assert serving(model=Model("m", 131072)).max_model_len == serving(model=Model("m")).max_model_len == fitting.LENGTH
    # 32 layers of 8 groups of 128, as Llama 3.1 8B has them: 128 KiB a token, four texts of 4096 tokens are 2 GiB.
    config = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert fitting.model("m", config, None).token_bytes == 128 << 10
    assert serving(model=Model("m", 131072, 128 << 10)).cache_gib == 2
    assert serving(model=Model("m")).cache_gib == fitting.USUAL_CACHE_GIB


@pytest.mark.parametrize(
    ("content", "gpu", "compiles", "packages"),
    [
        ({}, False, False, ("libnuma1",)),
        (
            {"target": {"gpu": served.GPU}},
            False,
            False,
            ("libnuma1",),
        ),  # the CPU build opens no GPU, whatever else is there
        ({"wheels": served.CUDA_WHEELS}, True, False, ()),
        ({"wheels": served.CUDA_WHEELS, "debs": ("gcc", "libnuma1")}, True, False, ("libnuma1",)),  # no headers
        (
            {"wheels": served.CUDA_WHEELS, "debs": ("clang", "libpython3.11-dev")},
            True,
            True,
            ("clang", "libpython3.11-dev"),
        ),
        (
            {"wheels": served.CUDA_WHEELS, "compiler": True, "image": True, "debs": ("gcc", "libpython3.11-dev")},
            True,
            True,
            (),
        ),
        ({"wheels": served.CUDA_WHEELS, "compiler": True}, True, False, ()),  # it is in the image, and there is none
        ({"wheels": served.CUDA_WHEELS[:2]}, False, False, ("libnuma1",)),
        ({"wheels": served.CUDA_WHEELS[:2], "debs": ("libnvidia-compute-580-server",)}, True, True, ()),
        ({"wheels": served.CUDA_WHEELS[:2], "target": {"gpu": served.GPU}}, True, True, ()),
    ],
)
def test_what_the_bundle_has_decides_between_processors_and_gpus(
    tmp_path: Path, content: dict[str, Any], gpu: bool, compiles: bool, packages: tuple[str, ...]
) -> None:
    made, _ = bundle(tmp_path, **content)
    found = new.serving(made.path, made.root)
    assert (found.gpu, found.compiles, found.packages) == (gpu, compiles, packages)
    text = newfiles.site(found, [Node("n", "10.0.0.1")], Control("10.0.0.5"))
    args = yaml.safe_load(text)["appliance_site"]["services"][0]["args"]
    assert args.get("enforce-eager", False) is (not compiles)


def test_names_that_yaml_would_misread_stay_names() -> None:
    for name in ("1", "yes", "null", "1e3", "0x1F", "2026-11-21", "a"):
        hosts = yaml.safe_load(newfiles.hosts([Node(name, "fd00::")]))["all"]["children"]
        assert hosts["gateway"]["hosts"] == {name: {"ansible_host": "fd00::"}}
    text = newfiles.site(serving(model=Model("1.5"), runtime="2"), [Node("n", "10.0.0.1")], Control("10.0.0.5"))
    site = yaml.safe_load(text)["appliance_site"]
    assert (site["runtime"], site["services"][0]["model"], site["services"][0]["name"]) == ("2", "1.5", "1-5")


def test_a_long_name_of_a_model_makes_a_name_that_a_unit_takes() -> None:
    assert len(serving(model=Model("a" * 63)).service) == 31


def test_the_control_host_is_what_the_first_node_reaches() -> None:
    routes = {"10.0.0.1": "10.0.0.250", "10.1.0.1": "10.1.0.250", "10.2.0.1": ""}
    nodes = [Node(str(i), address) for i, address in enumerate(routes)]
    assert new.control(nodes, routes.__getitem__) == Control("10.0.0.250", ("10.1.0.250",))
    assert new.control(nodes[::-1], routes.__getitem__) == Control()  # no way to the gateway: the operator must say
    assert new.control([], routes.__getitem__) == Control()
    text = newfiles.site(serving(), nodes, Control("10.0.0.250", ("10.1.0.250",)))
    assert "reaches other nodes from 10.1.0.250" in text


def test_the_kernel_says_which_address_reaches_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert new.local_address("127.0.0.1") == ""  # loopback leads to this host alone
    assert new.local_address("255.255.255.255") == ""  # refused by the kernel: nothing is sent to everybody
    own = new.local_address("10.0.0.1")  # empty on a machine without any route
    assert own == "" or new.local_address(own) == own


def test_no_servable_model_is_named_before_the_manifest_is_understood() -> None:
    with pytest.raises(InputError, match="no model with config"):
        fitting.servable("r-1", {})
