"""A spec's text becomes the VM that it says, or every problem at its line and column; never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.model.context import Context
from confined_qemu.model.errors import SpecError
from confined_qemu.model.invocation import Accel, Seclabel, SeclabelType
from confined_qemu.read.spec import loader, yamlnodes
from confined_qemu.read.spec.devices import (
    Char,
    CharKind,
    Network,
    NetworkType,
    Share,
    ShareDriver,
    Tpm,
    TpmModel,
    TpmVersion,
)
from confined_qemu.read.spec.vm import VM, Bus, Disk, DiskFormat, ExtraFile
from tests.examples import examples
from tests.messages import is_message
from tests.strategies import spec_documents

HERE = Path(__file__).parent
CONFIGS = sorted((HERE.parent / "configs").glob("*.yaml"))
BAD = sorted((HERE / "golden" / "bad").glob("*.yaml"))
PROBLEM = re.compile(r"f\.yaml(:[1-9][0-9]*:[1-9][0-9]*)?: .*", re.DOTALL)


def decoded(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        loader.parse(text, "f.yaml")
    assert str(caught.value) == "\n".join(caught.value.messages)
    return caught.value.messages


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_golden_problems(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        loader.parse(decoded(path), path.name)
    assert f"{caught.value}\n" == path.with_suffix(".err").read_text()


def test_the_golden_corpus_is_whole() -> None:
    assert len(BAD) > 40
    assert {path.stem for path in BAD} == {path.stem for path in (HERE / "golden" / "bad").glob("*.err")}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_examples_are_good(path: Path) -> None:
    text = path.read_text()
    assert loader.parse(text, path.name).name == path.stem
    assert text.startswith("# yaml-language-server: $schema=confined-qemu.schema.json\n")


def test_linux_0_2() -> None:
    vm = loader.parse(decoded(HERE.parent / "configs" / "linux-0.2.yaml"), "linux-0.2.yaml")
    assert vm == VM(
        name="linux-0.2",
        disks=(Disk("linux-0.2.img", DiskFormat.RAW, Bus.IDE),),
        serial=Char(CharKind.STDIO),
    )


def test_every_key_arrives() -> None:
    label = "system_u:system_r:svirt_t:s0:c1,c2"
    text = f"""
name: x
emulator: ./qemu
accel: kvm
machine: q35
cpu: max,-svm
cpus: 3
memory: 1G
user: nobody
disks: [{{file: d, format: qcow2, bus: scsi, readonly: on, seclabel: {{label: "{label}", relabel: yes}}}}]
cdrom: c
cdrom_format: qcow2
cdrom_seclabel: {{relabel: no}}
kernel: k
initrd: i
dtb: t
cmdline: quiet, really
firmware: f
firmware_format: qcow2
nvram: n
nvram_format: qcow2
serial: file:s
monitor: unix:m
qmp: stdio
display: vnc=127.0.0.1:3
network: {{type: user, model: e1000, mac: "52:54:00:00:00:01", hostfwd: ["tcp::1-:2"]}}
host_devices: ["usb:046d:c52b", "usb:1-2.3", "usb:1/5", "pci:01:00.0"]
input: [tablet, keyboard]
sound: ich9
rng: /dev/urandom
balloon: yes
vsock: 3
memory_backing: hugepages
tpm: {{state: t, version: 2.0, model: tpm-tis}}
shares: [{{dir: d, tag: /mnt, driver: 9p, readonly: yes}}]
extra_files: [{{file: e, readonly: yes, format: qcow2}}, {{file: later.ppm}}]
qemu_args: [-S, 1, on]
confinement: selinux
landlock: also
harden: no
core: yes
require_domain: TRUE
seclabel: {{type: static, label: "{label}", relabel: yes}}
"""
    vm = loader.parse(text, "f.yaml")
    plain = VM("plain")
    unset = [name for name in VM.__slots__ if getattr(vm, name) == getattr(plain, name)]
    assert unset == ["networks", "hypervisor"]  # in the place of network; a domain's keys are in tests/test_xen.py
    assert vm.qemu_args == ("-S", "1", "on")
    assert vm.disks[0].seclabel.label == Context.parse(label)
    assert vm.disks[0].readonly
    assert vm.accel is Accel.KVM
    assert vm.seclabel == Seclabel(SeclabelType.STATIC, relabel=True, label=Context.parse(label))
    assert vm.network.hostfwd == ("tcp::1-:2",)
    assert vm.tpm == Tpm("t", TpmVersion.TPM_2, TpmModel.TIS)
    assert vm.extra_files == (ExtraFile("e", readonly=True, format=DiskFormat.QCOW2), ExtraFile("later.ppm"))
    assert [str(one) for one in vm.host_devices] == ["usb:046d:c52b", "usb:1-2.3", "usb:1/5", "pci:01:00.0"]
    assert vm.shares == (Share("d", "/mnt", ShareDriver.NINE_P, readonly=True),)


@pytest.mark.parametrize(
    "text", ["on", "no", "1:30", "0o17", "1_000", "~", "null", "2001-01-01", "1e3", ".inf", "0x1F", "y"]
)
def test_a_text_stays_what_was_written(text: str) -> None:
    vm = loader.parse(f"name: x\nkernel: {text}\ncmdline: {text}\nqemu_args: [{text}]\n", "f.yaml")
    assert (vm.kernel, vm.cmdline, vm.qemu_args) == (text, text, (text,))


@pytest.mark.parametrize("word", ["yes", "on", "true", "no", "off", "false", "Yes", "OFF", "True", '"yes"', "'no'"])
def test_yes_and_no(word: str) -> None:
    vm = loader.parse(f"name: x\nrequire_domain: {word}\n", "f.yaml")
    assert vm.require_domain is (word.strip("\"'").lower() in {"yes", "on", "true"})


@pytest.mark.parametrize("word", ["1", "0", "y", "n", "~", "maybe", "[]", "{}"])
def test_neither_yes_nor_no(word: str) -> None:
    assert problems(f"name: x\nrequire_domain: {word}\n")[0].startswith("f.yaml:2:17: require_domain: ")


@pytest.mark.parametrize(
    "number", ["0", "4097", "-1", "+1", "01", "0x1", "0b1", "1.0", "1_0", "1:30", "one", '"1"', "\u0661"]
)
def test_what_is_no_count(number: str) -> None:
    assert problems(f"name: x\ncpus: {number}\n")[0].startswith("f.yaml:2:7: cpus: ")


def test_relabel_follows_the_type_as_in_libvirt() -> None:
    for kind, relabel in (("dynamic", True), ("none", False)):
        assert loader.parse(f"name: x\nseclabel: {{type: {kind}}}", "f.yaml").seclabel.relabel is relabel


def test_short_and_long_network() -> None:
    assert loader.parse("name: x\nnetwork: user", "f").network == Network(NetworkType.USER)
    assert loader.parse("name: x\nnetwork: {type: user}", "f").network == Network(NetworkType.USER)
    assert problems("name: x\nnetwork: tap")[0].startswith("f.yaml:2:10: network: a tap network needs")


def test_aliases_repeat_what_they_name() -> None:
    text = "name: x\nkernel: &k vmlinuz\ncmdline: *k\ndisks:\n- {file: a, format: &f raw}\n- {file: b, format: *f}\n"
    vm = loader.parse(text, "f.yaml")
    assert vm.cmdline == "vmlinuz"
    assert [disk.format for disk in vm.disks] == [DiskFormat.RAW, DiskFormat.RAW]


def test_an_aliased_scalar_is_wrong_where_it_stands() -> None:
    assert problems("name: &n x\ncpus: *n\n")[0].startswith("f.yaml:2:7: cpus: ")


def test_laughs_do_not_grow() -> None:
    layers = [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)]
    lines = problems("\n".join(["name: x", "a0: &a0 [lol]", *layers, "disks: *a59", "qemu_args: *a59"]))
    assert len(lines) == yamlnodes.MAX_PROBLEMS + 1


def test_the_list_of_problems_ends() -> None:
    lines = problems("name: x\n" + "".join(f"memory{n}: 1\n" for n in range(20_000)))
    assert len(lines) == yamlnodes.MAX_PROBLEMS + 1
    assert "more problems" in lines[-1]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "- - ", "[{a: ", "a:\n ", "!!seq [", "&a ["])
def test_nesting_ends(opening: str) -> None:
    assert problems(opening * 50_000)
    assert problems("name: x\ndisks: " + opening * 50_000)


def test_a_text_that_is_no_spec_for_its_length() -> None:
    assert "characters, too long for a spec" in problems("#" * (yamlnodes.MAX_CHARACTERS + 1))[0]
    loader.parse("name: x\n#" + "#" * (yamlnodes.MAX_CHARACTERS - 9), "f.yaml")


def test_a_byte_order_mark_is_no_problem() -> None:
    assert loader.parse("\ufeffname: x\n", "f.yaml").name == "x"


def test_problems_are_in_order_of_place_and_name_their_file() -> None:
    lines = problems("memory: 1\ncpus: x\nname: ' '\nbogus: 1\n")
    assert [line.split(": ")[0] for line in lines] == ["f.yaml:1:9", "f.yaml:2:7", "f.yaml:3:7", "f.yaml:4:1"]
    with pytest.raises(SpecError, match=re.escape(r"a\nb.yaml:1:1: ")):
        loader.parse("", "a\nb.yaml")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("memroy", "memory"), ("vcpus", "cpus"), ("append", "cmdline"), ("Name", "name"), ("qemu-args", "qemu_args")],
)
def test_did_you_mean(written: str, meant: str) -> None:
    assert any(f"{written}: unknown key\n  did you mean {meant}?" in line for line in problems(f"{written}: x"))


def test_a_key_that_means_nothing_gets_the_list() -> None:
    assert "the keys are name, hypervisor, emulator, " in problems("name: x\nqqqqqq: 1")[0]


def test_one_mistake_has_no_echo() -> None:
    assert len(problems("name: x\nkernel: []\ninitrd: i\n")) == 1
    assert len(problems("name: x\nseclabel: {type: statik, label: 'u:r:t:s0'}\n")) == 1
    assert len(problems("name: x\ndisks: [{file: [], format: raw}, {file: a, format: raw}]\n")) == 1


@given(spec_documents(), st.sampled_from([True, False, None]))
def test_a_good_document_is_read_as_it_is(document: dict[str, Any], flow: bool | None) -> None:
    vm = loader.parse(yaml.safe_dump(document, default_flow_style=flow, sort_keys=False), "f")
    assert vm.name == document["name"]
    assert vm.kernel == document.get("kernel")
    assert vm.cmdline == document.get("cmdline")
    assert list(vm.qemu_args) == document.get("qemu_args", [])
    assert [disk.file for disk in vm.disks] == [disk["file"] for disk in document.get("disks", [])]
    assert str(vm.serial) == document.get("serial", "null")
    assert vm.cpus == document.get("cpus", 1)


def refuse_or_read(text: str) -> None:
    """Anything but a VM or a SpecError whose every line names its place fails the test."""
    try:
        loader.parse(text, "f.yaml")
    except SpecError as error:
        lines = error.messages
    else:
        return
    assert lines
    for line in lines:
        assert PROBLEM.fullmatch(line), line
        assert is_message(line)
        line.encode()


@examples(100)
@given(st.text(st.sampled_from("abkx:- \n\t#&*!|>'\"%@`{}[],?<=~01\\\x00\x85\ud800\udcff\ufeff") | st.characters()))
@example("%YAML 1.1\n---\n")
@example("%YAML 9.9\n--- a")
@example("%TAG ! !\n--- !a b")
@example("a: !<tag:x> b\n? !!binary |\n  aa\n: b")
@example("<<: {}\n")
@example("? ? a\n: b\n")
@example("*a : b")
@example("&a *a")
@example("name: x\n...\n...\n")
@example("--- \n--- \n")
def test_any_text_is_refused_or_read(text: str) -> None:
    refuse_or_read(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    refuse_or_read(data.decode("utf-8", "surrogateescape"))


@examples(100)
@given(st.data())
def test_any_damage_to_a_good_spec_is_refused_or_read(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CONFIGS + BAD).map(decoded))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = (
            text[:start]
            + data.draw(st.text(st.sampled_from(":-#&*!|>'\"{}[],?<\n\t 0a\udcff"), max_size=4))
            + text[end:]
        )
    refuse_or_read(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.data(),
)
def test_any_value_of_any_key_is_refused_or_read(value: Any, data: st.DataObject) -> None:
    names = ["name", "disks", "network", "seclabel", "cpus", "serial", "kernel", "qemu_args", "require_domain"]
    document = {"name": "x"} | {data.draw(st.sampled_from(names)): value}
    refuse_or_read(json.dumps(document, ensure_ascii=False))


def test_the_pure_python_parser_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader")
    for path in CONFIGS:
        assert loader.parse(decoded(path), path.name).name == path.stem
    for path in BAD:
        with pytest.raises(SpecError):
            loader.parse(decoded(path), path.name)
    for text in ("[" * 5000, "- " * 5000, "%YAML 1." + "9" * 5000 + "\n--- a", "\t", "a: b: c", "\ud800"):
        refuse_or_read(text)
