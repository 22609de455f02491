"""The intake's rules, each with its message."""

from __future__ import annotations

import fnmatch
import json
import re
import struct
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import TrustError
from engine.tree import Entry
from installer import chattemplate, intake, modelcard, modelneeds
from installer.compat.check import check, gather
from installer.definition import Definition, Waiver
from installer.intake import Finding, Verdict
from installer.lockfile import Artifact, Lock

TENSOR = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def weights(*tensors: str) -> bytes:
    """A sound safetensors file with these tensors of one byte each."""
    header = json.dumps({t: {**TENSOR, "data_offsets": [i, i + 1]} for i, t in enumerate(tensors)}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(len(tensors))


GOOD = {"model.safetensors": weights("w"), "config.json": b"{}", "LICENSE": b"terms"}


def examine(files: dict[str, bytes], **options: Any) -> Verdict:
    return intake.examine([Entry(p, "file", len(d)) for p, d in files.items()], lambda p, n: files[p][:n], **options)


def refusals(more: dict[str, bytes], **options: Any) -> list[Finding]:
    """What is refused of the good model with more files."""
    return list(examine(GOOD | more, **options).refused)


def the_refusal(more: dict[str, bytes], **options: Any) -> Finding:
    (finding,) = refusals(more, **options)
    return finding


def test_a_plain_model_passes() -> None:
    more = {
        "README.md": b"# card", "generation_config.json": b"{}", "tokenizer.json": b'{"model": {"vocab": {}}}',
        "tokenizer.model": b"\x0a\x05words", "tekken.json": b"[]", "merges.txt": b"a b", "qwen.tiktoken": b"IQ== 0",
        "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}", "NOTICE": b"n", "USE_POLICY.md": b"",
        "model.safetensors.index.json": b'{"weight_map": {"w": "model.safetensors"}}', "original/params.json": b"{}",
    }  # fmt: skip
    verdict = examine(GOOD | more)
    assert verdict.refused == ()
    assert {e.path for e in verdict.taken} == GOOD.keys() | more.keys()
    verdict.enforce("m", "here")


# -- rules of names ---------------------------------------------------------------------------
PICKLES = [
    "pytorch_model.bin", "consolidated.00.pth", "model.pt", "x.pt2", "epoch.ckpt", "a.pkl", "a.pickle", "a.dill", "a.joblib",
    "a.npy", "a.npz", "a.h5", "a.hdf5", "a.keras", "a.nemo", "a.mar", "deep/below/training_args.BIN",
]  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_formats_that_carry_pickles_are_refused(name: str) -> None:
    assert the_refusal({name: b"whatever"}) == Finding("pickle", name, "its format can run code when it is loaded")


@pytest.mark.parametrize("name", ["modeling_x.py", "x.pyc", "lib.so", "sub/setup.PY", "train.ipynb", "p.whl"])
def test_code_is_refused(name: str) -> None:
    assert the_refusal({name: b""}) == Finding("python", name, "it is code")


@pytest.mark.parametrize("name", ["a.png", "model.gguf", "model.onnx", "flax_model.msgpack", "run.sh", "noextension"])
def test_other_types_stay_outside_and_are_listed(name: str) -> None:
    verdict = examine(GOOD | {name: b"x"})
    assert (verdict.refused, verdict.left_out) == ((), (name,))
    assert {e.path for e in verdict.taken} == GOOD.keys()
    assert list(verdict.remarks()) == [f"left out, not of a type that may cross: {name}"]


def test_other_types_that_include_asks_for_are_refused() -> None:
    finding = the_refusal({"a.png": b"x"}, include=["*"])
    assert finding == Finding("type", "a.png", "include asks for it, but its type may not cross the gap")


def test_include_leaves_the_rest_unread() -> None:
    verdict = examine(GOOD | {"bad.py": b"", "old/m.bin": b""}, include=["*.safetensors", "*.json", "LICENSE"])
    assert (verdict.refused, verdict.left_out) == ((), ())


@pytest.mark.parametrize("name", [".git/config", ".cache/huggingface/download/x.json", ".gitattributes", "a/.b/c.py"])
def test_hidden_files_are_nobodys_model(name: str) -> None:
    verdict = examine(GOOD | {name: b"x"})
    assert (verdict.refused, verdict.left_out) == ((), ())
    assert {e.path for e in verdict.taken} == GOOD.keys()


@pytest.mark.parametrize(
    "name",
    ["../config.json", "a/../../b.json", "/etc/passwd.json", "a//b.json", "a\\b.json", "a\nb.json", "a\u0308.json"],
)
def test_paths_that_climb_or_mislead_are_refused(name: str) -> None:
    finding = the_refusal({name: b"{}"}, waivers=[Waiver(rule="python", reason="does not matter here")])
    assert (finding.rule, finding.path) == ("path", ascii(name))
    assert finding.reason == "its path climbs, or has characters that are not safe everywhere"


def test_two_names_that_are_one_on_some_media_are_refused() -> None:
    finding = the_refusal({"Config.json": b"{}"})
    assert finding == Finding("path", "config.json", "on media that ignore case it is the same file as Config.json")


@pytest.mark.parametrize(("kind", "reason"), [("link", "a symbolic link"), ("special", "a socket, pipe or device")])
def test_only_files_of_their_own_are_taken(kind: str, reason: str) -> None:
    entries = [Entry(p, "file", len(d)) for p, d in GOOD.items()] + [Entry("tokenizer.json", kind, 3)]
    verdict = intake.examine(entries, lambda p, n: GOOD[p][:n])
    assert verdict.refused == (Finding("link", "tokenizer.json", f"it is {reason}, not a file of its own"),)


# -- rules of content -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"\x80\x04\x95rest"),
        ("tokenizer.model", b"PK\x03\x04torch"),
        ("config.json", b"\x1f\x8bpacked"),
        ("README.md", b"\x7fELF"),
        ("qwen.tiktoken", b"\x80\x02}q"),
    ],
)
def test_code_under_a_harmless_name_is_refused(name: str, content: bytes) -> None:
    finding = the_refusal({name: content})
    assert (finding.rule, finding.path) == ("pickle", name)
    assert finding.reason == "its content is a pickle, an archive or a program, whatever its name says"


def test_a_model_that_is_no_sentencepiece_is_refused() -> None:
    finding = the_refusal({"w2v.model": b"(dp0\nS'x'"})  # a pickle of protocol 0 has no mark of its own
    assert finding == Finding("pickle", "w2v.model", "it is named like a SentencePiece tokenizer and is none")


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}),
        ("tokenizer_config.json", {"auto_map": ["tokenization_x.T", None]}),
        ("processor/preprocessor_config.json", {"a": [{"b": {"auto_map": "x.Y"}}]}),
        ("config.json", {"auto_map": {}}),
    ],
)
def test_auto_map_anywhere_is_refused(name: str, document: Any) -> None:
    finding = the_refusal({name: json.dumps(document).encode()})
    assert finding == Finding("auto-map", name, "auto_map makes a loader run the model's own code")


def test_auto_map_is_found_behind_a_second_key_of_the_same_name() -> None:
    assert the_refusal({"config.json": b'{"a": {"auto_map": {"x": "y"}}, "a": {}}'}).rule == "auto-map"
    assert the_refusal({"config.json": b'{"auto_map": {"x": "y"}, "auto_map": 3}'}).rule == "auto-map"


def test_a_word_auto_map_of_a_vocabulary_is_no_auto_map() -> None:
    assert refusals({"vocab.json": b'{"auto_map": 4711}'}) == []


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\xfd", b"[" * 100_000, b"1" * 5000])
def test_json_that_is_none_is_refused(content: bytes) -> None:
    finding = the_refusal({"config.json": content})
    assert (finding.rule, finding.path) == ("json", "config.json")
    assert finding.reason.startswith("it is not JSON: ")


def test_json_beyond_the_limit_is_refused_unread() -> None:
    entries = [Entry(p, "file", len(d)) for p, d in GOOD.items()] + [Entry("big.json", "file", intake.JSON_LIMIT + 1)]
    verdict = intake.examine(entries, lambda p, n: (GOOD | {"big.json": b"{}      "})[p][:n])
    assert verdict.refused == (Finding("json", "big.json", f"it has more than {intake.JSON_LIMIT} bytes"),)


HOSTILE_TEMPLATES = [
    ("{{ ''.__class__ }}", "touches __class__ (line 1)"),
    ("a\n{{ messages.__init__.__globals__ }}", "touches __globals__ (line 2)"),
    ("{{ ''['__class__'] }}", "touches __class__"),
    ("{{ ''['__cl' ~ 'ass__'] }}", "touches __class__"),
    ("{{ ''['__cl' + 'ass' + '__'] }}", "touches __class__"),
    ("{{ ''['\\x5f_class_\\x5f'] }}", "touches __class__"),
    ("{{ ''|attr('__class__') }}", "reads attributes by computed names"),
    ("{{ ''|attr(name) }}", "reads attributes by computed names"),
    ("{{ [m]|map(attribute='__class__')|list }}", "touches __class__"),
    ("{% set x = messages.__class__ %}", "touches __class__"),
    ("{% if messages[0]._private %}{% endif %}", "touches _private"),
    ("{{ __import__('os') }}", "touches __import__"),
    ("{% macro m(a=''.__class__) %}{% endmacro %}", "touches __class__"),
    ("{% generation %}{{ ''.__class__ }}{% endgeneration %}", "touches __class__"),
    ("{% for", "is not valid Jinja"),
    ("{{ " + "9" * 5000 + " }}", "is not valid Jinja"),
    ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "nested too deeply"),
    ("{{ x" + ".a" * 20_000 + " }}{{ ''.__class__ }}", "touches __class__"),
    ("{{ ''.__class__" + ".a" * 20_000 + " }}", "touches __class__"),
    ("{{ x['_'" + " + '_'" * 20_000 + " + 'class__'] }}", "class__"),
    ("x" * (chattemplate.LIMIT + 1), f"more than {chattemplate.LIMIT} characters"),
]
TEMPLATE_IDS = [f"{i}-{reason[:20]}" for i, (_, reason) in enumerate(HOSTILE_TEMPLATES)]


@pytest.mark.parametrize(("template", "reason"), HOSTILE_TEMPLATES, ids=TEMPLATE_IDS)
def test_templates_that_reach_for_internals_are_refused_wherever_they_stand(template: str, reason: str) -> None:
    places: dict[str, bytes] = {
        "chat_template.jinja": template.encode(),
        "additional_chat_templates/tools.jinja": template.encode(),
        "tokenizer_config.json": json.dumps({"chat_template": template}).encode(),
        "chat_template.json": json.dumps({"chat_template": [{"name": "default", "template": template}]}).encode(),
        "processor_config.json": json.dumps({"x": {"chat_template": {"tool_use": template}}}).encode(),
    }
    for name, content in places.items():
        finding = the_refusal({name: content})
        assert (finding.rule, finding.path) == ("chat-template", name)
        assert reason in finding.reason


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{% if loop.first and m['role'] == 'system' %}{{ m.content|trim }}{% endif %}"
        "{% generation %}{{ m['content'] }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
        "{%- set ns = namespace(found=false) %}{%- set ns.found = true %}{{ tools|tojson(indent=4) }}{{ raise_exception('x') }}",
        "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('\n') }}{{ strftime_now('%d') }}",
        "Words about __init__ and __main__ in the text are only text. {# and __class__ in a comment #}",
    ],
)
def test_honest_templates_pass(template: str) -> None:
    assert refusals({"chat_template.jinja": template.encode()}) == []


def test_a_template_that_is_not_utf8_is_refused() -> None:
    assert the_refusal({"chat_template.jinja": b"\xff"}).reason == "the chat template is not UTF-8"


def test_a_template_deep_in_json_is_found() -> None:
    document = '{"chat_template":' + "[" * 300 + '"{{ x.__class__ }}"' + "]" * 300 + "}"
    assert the_refusal({"tokenizer_config.json": document.encode()}).rule == "chat-template"


# -- weights ------------------------------------------------------------------------------------
def test_a_model_without_safetensors_is_refused() -> None:
    files = {k: v for k, v in GOOD.items() if k != "model.safetensors"}
    assert examine(files).refused == (
        Finding("safetensors", "", "it has no safetensors file, so no weights that may cross"),
    )


def test_a_malformed_header_is_refused_and_named() -> None:
    finding = the_refusal({"model-2.safetensors": weights("w") + b"behind"})
    assert (finding.rule, finding.path) == ("safetensors", "model-2.safetensors")
    assert "header and tensors take" in finding.reason


def test_only_the_header_of_weights_is_read() -> None:
    asked: list[tuple[str, int]] = []
    files = GOOD | {"model.safetensors": weights("w")}

    def read(path: str, n: int) -> bytes:
        asked.append((path, n))
        return files[path][:n]

    intake.examine([Entry(p, "file", len(d)) for p, d in files.items()], read)
    assert [n for path, n in asked if path == "model.safetensors"] == [8, len(weights("w")) - 1]


INDEX = "model.safetensors.index.json"
SHARDS = {"model-1.safetensors": weights("a"), "model-2.safetensors": weights("b", "c")}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"a": "model-1.safetensors", "b": "model-3.safetensors"}}, "'model-3.safetensors', which is not there"),
        ({"weight_map": {"b": "model-1.safetensors"}}, "looks for 'b' in 'model-1.safetensors', which does not have it"),
        ({"weight_map": {"a": "../model-1.safetensors"}}, "'../model-1.safetensors', which is no shard beside it"),
        ({"weight_map": {"a": "model-1.bin"}}, "'model-1.bin', which is no shard beside it"),
        ({"weight_map": {"a": 1}}, "no weight_map"),
        ({"metadata": {}}, "no weight_map"),
        ([], "no weight_map"),
    ],
)  # fmt: skip
def test_an_index_names_shards_that_are_there_and_hold_their_tensors(index: Any, reason: str) -> None:
    finding = the_refusal(SHARDS | {INDEX: json.dumps(index).encode()})
    assert (finding.rule, finding.path) == ("index", INDEX)
    assert reason in finding.reason


@pytest.mark.parametrize("below", ["", "sub/"])
def test_a_sound_index_passes(below: str) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    assert refusals({below + p: d for p, d in SHARDS.items()} | {below + INDEX: json.dumps(index).encode()}) == []


def shards(*names: str) -> dict[str, bytes]:
    """Sound weights under these names, each with a tensor of its own."""
    return {f"{n}.safetensors": weights(f"t{i}") for i, n in enumerate(names)}


WHOLE_SETS = [
    ["model-00001-of-00002", "model-00002-of-00002"],
    ["model-00000-of-00002", "model-00001-of-00002"],  # some tools count from 0
    ["model-00001-of-000002", "model-00002-of-000002"],
    ["consolidated-1-of-1"],
    ["a-1-of-1", "b-1-of-2", "b-2-of-2", "sub/b-1-of-1", "model.fp16-1-of-1"],
]


@pytest.mark.parametrize("names", WHOLE_SETS, ids=lambda n: n[0])
def test_whole_sets_of_shards_pass_with_or_without_an_index(names: list[str]) -> None:
    assert refusals(shards(*names)) == []


BROKEN_SETS = [
    (
        ["model-00001-of-00003", "model-00003-of-00003"],
        "model-00001-of-00003",
        "one of 3 shards, of which 2 is missing",
    ),
    (["model-00002-of-00002"], "model-00002-of-00002", "one of 2 shards, of which 1 is missing"),
    (["model-00000-of-00003", "model-00002-of-00003"], "model-00000-of-00003", "of which 1 is missing"),
    (["consolidated_1-of-4"], "consolidated_1-of-4", "of which 2, 3, 4 are missing"),
    (["sub/x-1-of-1", "sub/y-1-of-2"], "sub/y-1-of-2", "of which 2 is missing"),
    (["M-1-of-999999999"], "M-1-of-999999999", "of which 2, 3, 4, 5, 6 and 999999993 more are missing"),
    (["model-1-of-2", "model-2-of-2", "model-1-of-3"], "model-1-of-2", "beside it are shards of sets of 2 and of 3"),
    (["model-1-of-2", "model-2-of-2", "model-01-of-2"], "model-1-of-2", "shard 1 of 2, and so is model-01-of-2"),
    (["model-1-of-2", "model-2-of-2", "model-3-of-2"], "model-3-of-2", "it is number 3 of a set that ends at 2"),
    (["model-0-of-2", "model-1-of-2", "model-2-of-2"], "model-2-of-2", "it is number 2 of a set that ends at 1"),
]


@pytest.mark.parametrize(("names", "path", "reason"), BROKEN_SETS, ids=[r for _, _, r in BROKEN_SETS])
def test_shards_whose_names_say_that_others_are_missing_are_refused(names: list[str], path: str, reason: str) -> None:
    finding = the_refusal(shards(*names))
    assert (finding.rule, finding.path) == ("shards", f"{path}.safetensors")
    assert reason in finding.reason


def test_shards_that_include_leaves_out_are_missing_and_it_says_why() -> None:
    files = shards("model-1-of-2", "model-2-of-2") | {INDEX: b'{"weight_map": {}}', "LICENSE": b"terms"}
    (finding,) = examine(files, include=["model-1-*", "LICENSE"]).refused
    assert (finding.rule, finding.path) == ("shards", "model-1-of-2.safetensors")
    assert finding.reason.endswith("of which 2 is missing; include leaves shards of this set out")
    assert "correct `include`" in intake.remedy([finding])


# -- licence ------------------------------------------------------------------------------------
BARE = {k: v for k, v in GOOD.items() if k != "LICENSE"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"README.md": b"# no front matter\nlicense: mit\n"},
        {"README.md": b"---\nlicense: other\n---\n"},
        {"README.md": b"---\nlicense: unknown\n---\n"},
        {"README.md": b"---\nlicense: [\n---\n"},
        {"README.md": b"---\n" + b"[" * 5000 + b"\n---\n"},
        {"README.md": b"---\nlicense: {a: b}\n---\n"},
        {"other/LICENSE": b"of something else"},
    ],
)
def test_a_model_without_a_licence_is_refused(more: dict[str, bytes]) -> None:
    assert examine(BARE | more).refused == (
        Finding("licence", "", "neither the definition, the model card nor a LICENSE file names one"),
    )


@pytest.mark.parametrize(
    ("more", "licence"),
    [
        ({"README.md": b"---\nlicense: apache-2.0\ntags: [x]\n---\n# Card"}, "Apache-2.0"),
        ({"README.md": b"---\r\nlicense: MIT\r\n---\r\n"}, "MIT"),
        ({"README.md": b"---\nlicense: llama3.1\n---\n"}, "LicenseRef-llama3.1"),
        ({"README.md": b"---\nlicense: other\nlicense_name: tongyi qianwen!\n---\n"}, "LicenseRef-tongyi-qianwen"),
        ({"README.md": b"---\nlicense: [mit, cc-by-4.0]\n---\n"}, "MIT AND CC-BY-4.0"),
        ({"LICENSE.txt": b"terms"}, "LicenseRef-LICENSE.txt"),
        ({"COPYING": b"terms", "README.md": b"---\ntags: [x]\n---\n"}, "LicenseRef-COPYING"),
        ({"licence.md": b"terms", "README.md": b"---\nlicense: mit\n---\n"}, "MIT"),
    ],
)
def test_the_licence_is_the_cards_or_the_files(more: dict[str, bytes], licence: str) -> None:
    verdict = examine(BARE | more)
    assert (verdict.refused, verdict.licence) == ((), licence)


def test_the_definitions_licence_stands_above_the_card() -> None:
    files = BARE | {"README.md": b"---\nlicense: mit\n---\n"}
    assert examine(files, licence="Apache-2.0").licence == "Apache-2.0"
    assert examine(BARE, licence="Apache-2.0").refused == ()


def test_spdx_names_are_those_of_the_list() -> None:
    assert all(name.lower().startswith(hub.split("-")[0]) for hub, name in modelcard.SPDX.items())


# -- refusal and waiver -------------------------------------------------------------------------
def test_a_refusal_names_every_file_and_rule_and_how_to_record_an_exception() -> None:
    verdict = examine(BARE | {"m.py": b"", "m.bin": b"", "config.json": b'{"auto_map": {}}'})
    with pytest.raises(TrustError) as caught:
        verdict.enforce("tiny", "bundles/tiny")
    text = str(caught.value)
    for line in (
        "model tiny is refused",
        "m.py: it is code [rule python]",
        "m.bin: its format can run code when it is loaded [rule pickle]",
        "config.json: auto_map makes a loader run the model's own code [rule auto-map]",
        "the model: neither the definition, the model card nor a LICENSE file names one [rule licence]",
        "record an exception in the definition: `waivers: [{rule: auto-map, reason: WHY}]`",
    ):
        assert line in text
    assert caught.value.where == "bundles/tiny"
    assert caught.value.exit_code == 3


CASES: dict[str, dict[str, bytes]] = {
    "pickle": {"m.bin": b""},
    "python": {"m.py": b""},
    "auto-map": {"config.json": b'{"auto_map": {"a": "b"}}'},
}


@pytest.mark.parametrize("rule", CASES)
def test_a_waiver_lets_its_rule_be_broken_and_is_noted_beside_the_file(rule: Any) -> None:
    waiver = Waiver(rule=rule, reason="reviewed by A. Person")
    verdict = examine(GOOD | CASES[rule], waivers=[waiver])
    (name,) = CASES[rule]
    assert (verdict.refused, verdict.unused) == ((), ())
    assert name in {e.path for e in verdict.taken}
    assert verdict.notes(name) == (f"waiver {rule}: reviewed by A. Person ({verdict.waived[0][0].reason})",)
    assert verdict.notes("model.safetensors") == ()


def test_a_licence_waiver_is_noted_beside_every_file() -> None:
    verdict = examine(BARE, waivers=[Waiver(rule="licence", reason="our own training run")])
    assert (verdict.refused, verdict.licence) == ((), "")
    for path in BARE:
        assert any(n.startswith("waiver licence: our own training run") for n in verdict.notes(path))


@pytest.mark.parametrize("rule", CASES)
def test_a_waiver_covers_its_own_rule_only(rule: Any) -> None:
    others = [
        Waiver(rule=r, reason="for something else") for r in ("pickle", "python", "auto-map", "licence") if r != rule
    ]
    assert the_refusal(CASES[rule], waivers=others).rule == rule


def test_a_waiver_that_is_not_needed_is_remarked() -> None:
    verdict = examine(GOOD, waivers=[Waiver(rule="pickle", reason="was needed once")])
    assert verdict.unused == ("pickle",)
    assert list(verdict.remarks()) == ["the waiver for pickle is not needed; remove it from the definition"]
    assert verdict.notes("model.safetensors") == ()


def test_what_has_no_waiver_says_so() -> None:
    unwaivable: list[dict[str, bytes]] = [
        {"x.safetensors": b""}, {"../x.json": b"{}"}, {"x.json": b"{"}, {"t.jinja": b"{{ x.__class__ }}"},
    ]  # fmt: skip
    every = [Waiver(rule=r, reason="all that there are") for r in ("pickle", "python", "auto-map", "licence")]
    for more in unwaivable:
        verdict = examine(GOOD | more, waivers=every)
        with pytest.raises(TrustError) as caught:
            verdict.enforce("tiny", "here")
        assert caught.value.remedy.startswith("There is no waiver for these rules.")
    mixed = examine(GOOD | {"m.py": b"", "x.json": b"{"})
    assert intake.remedy(mixed.refused).endswith("There is no waiver for the other rules.")


# -- advice: what nothing refuses and a server misses --------------------------------------------
TEMPLATE = b"{% for m in messages %}{{ m.content }}{% endfor %}"
CHATS: list[dict[str, bytes]] = [
    {"chat_template.jinja": TEMPLATE},
    {"tokenizer_config.json": json.dumps({"chat_template": TEMPLATE.decode()}).encode()},
    {"tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": "x"}]}).encode()},
    {"chat_template.json": json.dumps({"chat_template": TEMPLATE.decode()}).encode()},
    {"processor_config.json": json.dumps({"chat_template": TEMPLATE.decode()}).encode()},
    {"tekken.json": b"{}"},
    {"tokenizer.model.v3": b"\x0a\x05words"},
]


def advice(files: dict[str, bytes], **options: Any) -> dict[str, str]:
    return {f.rule: f.reason for f in examine(files, **options).advice}


@pytest.mark.parametrize("more", CHATS, ids=lambda m: next(iter(m)))
def test_a_model_that_says_how_a_chat_is_written_needs_no_advice(more: dict[str, bytes]) -> None:
    assert advice(GOOD | more) == {}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tokenizer_config.json": b"{}"},
        {"tokenizer_config.json": b'{"chat_template": null}'},
        {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'},
        {"config.json": b'{"architectures": [1]}'},
        {"config.json": b"[]"},
        {"sub/chat_template.jinja": TEMPLATE},  # no server looks there
        {"tokenizer.model": b"\x0a\x05words"},
    ],
)
def test_a_model_without_a_chat_template_is_told_of(more: dict[str, bytes]) -> None:
    assert advice(GOOD | more)["chat-template"].startswith("it has no chat template: clients cannot chat with it")


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaForSequenceClassification"])
def test_a_model_that_generates_nothing_needs_no_chat_template(architecture: str) -> None:
    assert advice(GOOD | {"config.json": json.dumps({"architectures": [architecture]}).encode()}) == {}


# What each of these forms of a model has beside its weights; a definition's include must not leave any of it out unnoticed.
FORMS: dict[str, tuple[str, ...]] = {
    "llama": ("chat_template.jinja", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    "bpe": ("merges.txt", "vocab.json", "added_tokens.json", "chat_template.json", "preprocessor_config.json"),
    "sentencepiece": ("tokenizer.model", "tokenizer_config.json", "model.safetensors.index.json"),
    "tiktoken": ("qwen.tiktoken", "tokenizer_config.json"),
    "mistral": ("params.json", "tekken.json", "tokenizer.model.v3"),
    "vision": ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    "embedding": ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json", "vocab.txt"),
    "quantized": ("hf_quant_config.json", "quantize_config.json", "additional_chat_templates/tools.jinja"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_include_that_leaves_out_what_a_server_reads_is_told_of(form: str) -> None:
    files = (
        GOOD
        | dict.fromkeys(FORMS[form], b"{}")
        | {"README.md": b"# card", "loss.png": b"x", ".cache/tokenizer.json": b""}
    )
    told = advice(files, include=["model.safetensors", "config.json", "LICENSE"])["model-files"]
    assert told == f"include leaves out what a server reads: {', '.join(sorted(FORMS[form]))}"


@pytest.mark.parametrize("form", FORMS)
def test_the_include_that_the_documentation_shows_brings_what_a_server_reads(form: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text()
    (shown,) = (
        m for m in yaml.safe_load(re.findall(r"```yaml\n(models:.*?)```", page, re.DOTALL)[0])["models"] if "hub" in m
    )
    behind = [p for p in FORMS[form] if not any(fnmatch.fnmatchcase(p, pattern) for pattern in shown["include"])]
    assert modelneeds.left_behind(behind) == []


def test_advice_is_noted_once_in_the_lock_and_said_by_check() -> None:
    files = GOOD | {"tokenizer.json": b"{}"}
    verdict = examine(files, include=["*.safetensors", "config.json", "LICENSE"])
    notes = {p: verdict.notes(p) for p in ("LICENSE", "config.json", "model.safetensors")}
    assert [len(n) for n in notes.values()] == [2, 0, 0]
    artifacts = tuple(
        Artifact(
            path=f"models/m/{path}", kind="models", group="m", name="m", size=1, sha256="0" * 64, source="https://example.org/x",
            notes=("waiver licence: because", *told), profiles=("gpu",),
        )
        for path, told in notes.items()
    )  # fmt: skip
    definition = Definition.model_validate(
        {"schema": 1, "name": "t", "version": "1.0", "target": {"os": "debian-12", "python": "3.11"}}
    )
    lock = Lock(name="t", version="1.0", definition_sha256="", artifacts=artifacts)
    said = {f.rule: f for f in check(gather(definition, lock, date(2026, 11, 21)))}
    assert said.keys() == {"model-files", "chat-template"}
    assert {f.severity for f in said.values()} == {"warning"}
    assert said["model-files"].what == "models/m: include leaves out what a server reads: tokenizer.json"
    assert "no chat template" in said["chat-template"].what
