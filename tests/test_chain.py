"""What headers name: layers, and the refusal of whatever cannot be followed; no answer of qemu-img does harm."""

from __future__ import annotations

import json
import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.context import Context
from confined_qemu.model.lean import replace
from confined_qemu.model.resource import PROBED, Access, Resource, Role, Sharing
from confined_qemu.read.headers import Layer, Names, names
from tests.strategies import hostile, stray

TOP = Resource("/img/top", Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disks[0].file", "qcow2")
HERE = "/cwd"


def read(info: Any, image: Resource = TOP) -> Names:
    return names(json.dumps(info), Layer.top(image), HERE)


def backing(name: str, form: str | None = "raw") -> dict[str, Any]:
    found = {"format": "qcow2", "backing-filename": name}
    return found if form is None else {**found, "backing-filename-format": form}


def data(**values: Any) -> dict[str, Any]:
    return {"format": "qcow2", "format-specific": {"type": "qcow2", "data": values}}


def shown(found: Names) -> list[str]:
    assert found.problems == ()
    return [
        f"{r.path} {r.role} {r.access} {r.sharing} {r.format}" for r in (layer.image for layer in found.layers)
    ]  # fmt: skip


def json_name(**options: Any) -> str:
    return "json:" + json.dumps(options)


FILE = {"driver": "file", "filename": "/b"}
FOLLOWED = {
    ("b", "raw"): ["/img/b backing ro content raw"],
    ("../b", "qcow2"): ["/img/../b backing ro content qcow2"],
    ("/b", "qcow2"): ["/b backing ro content qcow2"],
    ("a,b c\nd", "raw"): ["/img/a,b c\nd backing ro content raw"],
    ("./a:b", "raw"): ["/img/./a:b backing ro content raw"],
    ("file:b", "raw"): ["/cwd/b backing ro content raw"],
    ("file:/b", "qcow2"): ["/b backing ro content qcow2"],
    ("/dev/vg/lv", "qcow2"): ["/dev/vg/lv backing ro content qcow2"],
    ("host_device:/dev/vg/lv", "raw"): ["/dev/vg/lv backing ro content raw"],
    ("/etc/shadow", "raw"): ["/etc/shadow backing ro unlabelled raw"],
    ("/img/../etc/shadow", "raw"): ["/img/../etc/shadow backing ro unlabelled raw"],
    ("/usr/share/base", "qcow2"): ["/usr/share/base backing ro unlabelled qcow2"],
    ("nbd://host/x", "raw"): [],
    ("https://host/x", "qcow2"): [],
    ("nbd:unix:/run/x", "raw"): ["/run/x socket connect unlabelled None"],
    ("nbd+unix:///e?socket=/run/y", "raw"): ["/run/y socket connect unlabelled None"],
    ("json:{'driver':'raw','file':{'driver':'file','filename':'/b'}}", "raw"): ["/b backing ro content raw"],
    (json_name(driver="raw", file=FILE), "raw"): ["/b backing ro content raw"],
    (json_name(driver="qcow2", file={"driver": "file", "filename": "b"}), None): ["/cwd/b backing ro content qcow2"],
    (json_name(**{"driver": "qcow2", "file.driver": "file", "file.filename": "/b"}), "qcow2"): [
        "/b backing ro content qcow2"
    ],
    (json_name(driver="qcow2", file=FILE, backing={"driver": "raw", "file": FILE | {"filename": "/c"}}), None): [
        "/b backing ro content qcow2",
        "/c backing ro content raw",
    ],
    (json_name(driver="qcow2", file=FILE, **{"data-file": {"driver": "file", "filename": "/d"}}), "qcow2"): [
        "/b backing ro content qcow2",
        "/d data-file ro content raw",
    ],
    (json_name(driver="raw", file={"driver": "nbd", "host": "h"}), "raw"): [],
    (json_name(driver="throttle", file={"driver": "qcow2", "file": FILE}), None): ["/b backing ro content qcow2"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "form"), FOLLOWED)
def test_backing_names(name: str, form: str | None) -> None:
    assert shown(read(backing(name, form))) == FOLLOWED[name, form]


def test_a_server_that_a_header_names_is_told() -> None:
    for name in ("nbd://host/x", "https://host/x"):
        assert read(backing(name, "raw")).remarks == (
            f"/img/top (disks[0].file): its header names {name}, which QEMU connects to",
        )
    assert read(backing("b", "raw")).remarks == read(backing("nbd:unix:/run/x", "raw")).remarks == ()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("-hda", "-drive file=/d/t,format=qcow2 in the place of -hda"),
        ("-hdc", "-drive file=/d/t,format=qcow2,index=2 in the place of -hdc"),
        ("-hda (disk image)", "-drive file=/d/t,format=qcow2 in the place of -hda (disk image)"),
        ("-cdrom", "-drive file=/d/t,format=qcow2,media=cdrom in"),
        ("-fdb", "-drive file=/d/t,format=qcow2,if=floppy,index=1 in"),
        ("-pflash", "-drive file=/d/t,format=qcow2,if=pflash in"),
        ("-drive file=", "state it: format=qcow2, or"),
        ("disks[0].file", "state it: format=qcow2, or"),
    ],
)
def test_a_format_is_asked_for_in_words_that_the_option_can_take(source: str, words: str) -> None:
    found = read(backing("b") | {"format": "qcow2"}, replace(TOP, path="/d/t", source=source, format=PROBED))
    assert words in found.problems[0]


REFUSED = {
    ("new:thing", "raw"): "unknown protocol",
    ("a\0b", "raw"): "not UTF-8",
    ("\N{REPLACEMENT CHARACTER}", "raw"): "not UTF-8",
    ("fat:rw:/etc", "raw"): "wants /etc as filesystem",
    ("/dev/fd/3", "raw"): "a descriptor",
    ("/proc/self/fd/3", "raw"): "a descriptor",
    ("json:{", "raw"): "invalid JSON",
    ("json:[]", "raw"): "not a JSON object",
    ("json:" + "[" * 100000, "raw"): "invalid JSON",
    (json_name(driver="raw", file="node0"), "raw"): "names a block node",
    (json_name(**{"driver": "raw", "read-only": False, "file": FILE}), "raw"): "that are read",
    (json_name(driver="raw", file=FILE, user="x", place="/etc/shadow"), "raw"): "QEMU may open this file",
    (json_name(driver="raw", file=FILE).replace("/b", "/\\ud800"), "raw"): "not UTF-8",
    (json_name(driver="raw", file=FILE).replace("/b", "/\\u0000"), "raw"): "not UTF-8",
    (json_name(driver="blkdebug", config="/c", image=FILE), None): "wants /c as config",
    (json_name(file=FILE), None): "qemu-img rebase -u -f qcow2 -F FORMAT -b 'json:",
    ("b", None): "run: qemu-img rebase -u -f qcow2 -F FORMAT -b b /img/top",
    ("a 'b", None): """-b 'a '"'"'b' /img/top""",
}


@pytest.mark.parametrize(("name", "form"), REFUSED)
def test_what_cannot_be_followed(name: str, form: str | None) -> None:
    found = read(backing(name, form))
    assert found.layers == ()
    (line,) = found.problems
    assert line.startswith("/img/top (disks[0].file): ")
    assert REFUSED[name, form] in line


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (data(), []),
        ({"format": "qcow2"}, []),
        (data(**{"data-file": "d"}), ["/cwd/d data-file rw private raw"]),
        (data(**{"data-file": "/d"}), ["/d data-file rw private raw"]),
        (data(**{"data-file": "/d"}) | backing("b"), ["/d data-file rw private raw", "/img/b backing ro content raw"]),
        (data(extents=[{"filename": "/img/top"}]), []),
        (
            data(extents=[{"filename": "/img/e1"}, {"filename": "/img/e2"}]),
            ["/img/e1 data-file rw private raw", "/img/e2 data-file rw private raw"],
        ),
    ],
)
def test_files_that_hold_the_data(info: dict[str, Any], expected: list[str]) -> None:
    assert shown(read(info)) == expected


@pytest.mark.parametrize("name", ["json:{}", "nbd://host", "a:b", "\N{REPLACEMENT CHARACTER}"])
@pytest.mark.parametrize("where", ["data-file", "extent"])
def test_a_data_files_name_is_a_path(name: str, where: str) -> None:
    found = read(data(**({"data-file": name} if where == "data-file" else {"extents": [{"filename": name}]})))
    assert found.layers == ()
    assert len(found.problems) == 1


def test_a_layer_is_used_as_its_disk_is() -> None:
    label = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
    for image in (
        replace(TOP, access=Access.READ, sharing=Sharing.CONTENT),
        replace(TOP, sharing=Sharing.SHARED),
        replace(TOP, label=label),
        replace(TOP, relabel=False),
    ):
        found = read(data(**{"data-file": "/d"}) | backing("b"), image)
        first, second = (layer.image for layer in found.layers)
        assert (first.access, first.sharing) == (image.access, image.sharing)
        assert (second.access, second.sharing) == (Access.READ, Sharing.CONTENT)
        for layer in (first, second):
            assert (layer.label, layer.relabel, layer.named_by) == (image.label, image.relabel, image.path)
            assert not layer.stated


def test_sources_count_the_layers() -> None:
    (second,) = read(backing("b", "qcow2")).layers
    assert second.image.source == "disks[0].file, backing 1"
    below = names(json.dumps(backing("c", "qcow2") | data(**{"data-file": "d"})), second, HERE)
    assert [layer.image.source for layer in below.layers] == [
        "disks[0].file, backing 1, data file",
        "disks[0].file, backing 2",
    ]


@pytest.mark.parametrize("stated", [frozenset({Role.BACKING}), frozenset({Role.DATA_FILE}), frozenset()])
def test_the_command_line_stands_before_the_header(stated: frozenset[Role]) -> None:
    found = read(data(**{"data-file": "/d"}) | backing("b"), replace(TOP, stated=stated))
    assert {layer.image.role for layer in found.layers} == {Role.BACKING, Role.DATA_FILE} - stated


@pytest.mark.parametrize("form", ["qed", "qcow"])
def test_a_format_that_cannot_say_it_is_probed_as_qemu_does(form: str) -> None:
    (layer,) = read(backing("b", None), replace(TOP, format=form)).layers
    assert (layer.image.path, layer.image.format) == ("/img/b", PROBED)
    assert shown(names(json.dumps({"format": "raw"}), layer, HERE)) == []
    (line,) = names(json.dumps(backing("/etc/shadow")), layer, HERE).problems
    assert "qemu-img convert -B" in line


@pytest.mark.parametrize("info", [backing("b"), backing("b", None), data(**{"data-file": "d"})])
def test_a_probed_image_names_nothing(info: dict[str, Any]) -> None:
    probed = replace(TOP, format=PROBED)
    found = read(info, probed)
    assert found.layers == ()
    assert "state it: format=qcow2, or format=raw" in found.problems[0]
    assert read({"format": "raw"}, probed) == Names()
    assert read(data(), probed) == Names()
    sparse = {"format": "vmdk", "format-specific": {"data": {"extents": [{"filename": "/img/top"}]}}}
    assert read(sparse, probed) == Names()


@pytest.mark.parametrize("answer", ["", "x", "[" * 100000, '{"a": ', "\0"])
def test_an_answer_that_is_none(answer: str) -> None:
    found = names(answer, Layer.top(TOP), HERE)
    assert found.layers == ()
    assert "cannot be read" in found.problems[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile | stray,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=8,
)
NAMED = hostile | stray | st.builds(lambda value: "json:" + json.dumps(value), VALUES)


@given(
    answer=st.fixed_dictionaries(
        {},
        optional={
            "format": VALUES,
            "backing-filename": NAMED | VALUES,
            "backing-filename-format": st.sampled_from(["raw", "qcow2", "file", "throttle"]) | VALUES,
            "format-specific": st.fixed_dictionaries(
                {},
                optional={"data": st.fixed_dictionaries({}, optional={"data-file": NAMED | VALUES, "extents": VALUES})},
            )
            | VALUES,
        },
    )
    | VALUES,
    form=st.sampled_from(["qcow2", "vmdk", "qed", PROBED]),
    access=st.sampled_from([(Access.READ_WRITE, Sharing.PRIVATE), (Access.READ, Sharing.CONTENT)]),
)
def test_no_answer_makes_more_than_files_to_read_and_the_disks_own(
    answer: Any, form: str, access: tuple[Access, Sharing]
) -> None:
    top = replace(TOP, format=form, access=access[0], sharing=access[1])
    found = read(answer, top)
    for layer in found.layers:
        image = layer.image
        assert posixpath.isabs(image.path)
        assert "\0" not in image.path
        image.path.encode()
        assert image.role in {Role.BACKING, Role.DATA_FILE}
        assert image.access is Access.READ or (image.role is not Role.BACKING and image.access is access[0])
        assert image.sharing in {Sharing.CONTENT, Sharing.UNLABELLED, access[1]}
        assert image.named_by == top.path
        assert image.source.startswith("disks[0].file, ")
    if form == PROBED:
        assert found.layers == ()
    for line in found.problems:
        assert line.startswith("/img/top (disks[0].file): ")
