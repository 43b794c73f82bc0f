"""A libvirt domain becomes the VM that it says, a list of what was lost, or problems at their lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import firmware
from confined_qemu.launch import inputs
from confined_qemu.model.errors import SpecError
from confined_qemu.model.invocation import Accel, SeclabelType
from confined_qemu.read.libvirt import carrying, devices, domain
from confined_qemu.read.spec import loader, render, writer
from confined_qemu.read.spec.vm import Bus
from tests.strategies import hostile, spec_documents

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden"
GOOD = sorted((GOLDEN / "import").glob("*.xml"))
BAD = sorted((GOLDEN / "import-bad").glob("*.xml"))
FRAME = "<domain type='kvm'><name>x</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>{}</domain>"
DEVICES = FRAME.format("<devices>{}</devices>")


def read(text: str) -> domain.Imported:
    return domain.parse(text, "d.xml")


def lost(text: str) -> list[str]:
    return list(carrying.lines_of(read(text).lost))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_golden_imports(path: Path, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(firmware, "SYSTEM", ())
    text, remarks = inputs.spec_of(path.name)
    golden(f"import/{path.stem}.yaml", text)
    golden(f"import/{path.stem}.err", "".join(f"confined-qemu: warning: {line}\n" for line in remarks))
    assert loader.parse(text, "x.yaml") == domain.parse(path.read_text(), path.name).vm


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_golden_refusals(path: Path, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(SpecError) as caught:
        domain.parse(path.read_text(), path.name)
    golden(f"import-bad/{path.stem}.err", f"{caught.value}\n")
    assert all(line.startswith(f"{path.name}:") for line in caught.value.problems)


def test_the_golden_corpora_are_whole() -> None:
    assert len(GOOD) > 2
    assert len(BAD) > 15
    for folder in ("import", "import-bad"):
        names = {path.stem for path in (GOLDEN / folder).glob("*.xml")}
        assert {path.stem for path in (GOLDEN / folder).glob("*.err")} == names


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("<memory>65536</memory>", "64M"), ("<memory unit='b'>1</memory>", "1M"), ("<memory unit='G'>2</memory>", "2G"),
        ("<memory unit='MB'>1</memory>", "1M"), ("<memory unit='gib'> 1 </memory>", "1G"),
        ("<memory unit='KiB'>1025</memory>", "2M"), ("<memory unit='bytes'>1048577</memory>", "2M"),
    ],
)  # fmt: skip
def test_sizes_are_rounded_up(text: str, memory: str) -> None:
    assert read(f"<domain type='kvm'><name>x</name>{text}<os><type>hvm</type></os></domain>").vm.memory == memory


def test_the_type_is_the_accelerator() -> None:
    assert read(FRAME.format("")).vm.accel is Accel.KVM
    assert read(FRAME.format("").replace("'kvm'", "'qemu'")).vm.accel is Accel.TCG


@pytest.mark.parametrize(
    ("target", "bus"), [("hda", Bus.IDE), ("sdb", Bus.SCSI), ("vda", Bus.VIRTIO), ("fda", Bus.FDC)]
)
def test_a_target_stands_for_its_bus(target: str, bus: Bus) -> None:
    disk = f"<disk type='file'><source file='/a'/><target dev='{target}'/></disk>"
    assert read(DEVICES.format(disk)).vm.disks[0].bus is bus


def test_another_model_is_not_ours_and_is_said() -> None:
    text = FRAME.format("<seclabel model='apparmor' type='static'><label>x</label></seclabel>")
    assert read(text).vm.seclabel.type is SeclabelType.DYNAMIC
    assert lost(text) == ["line 1: seclabel: labels of the model apparmor are not set, only SELinux's"]


def test_whatever_is_not_known_is_listed() -> None:
    text = FRAME.format("\n<new a='1'/>\n<os><bios useserial='yes'/></os>\n<devices x='y'>\n<novel/>\nwords</devices>")
    assert lost(text) == [
        "line 2: new: a spec has no key for it",
        "line 3: os: a spec has no key for it",
        "line 4: devices@x: a spec has no key for it",
        "line 4: devices, the text 'words': a spec has no key for it",
        "line 5: devices/novel: a spec has no key for it",
    ]


def test_every_bus_that_libvirt_derives_is_one_of_ours() -> None:
    assert set(devices._BUSES.values()) <= set(Bus)


@given(st.text(max_size=60) | st.lists(st.sampled_from("<>/&;'\"=! ab\n?-[]"), max_size=60).map("".join))
def test_no_text_is_a_traceback(text: str) -> None:
    with pytest.raises(SpecError):
        read(text)


_ATTRIBUTES = st.dictionaries(st.sampled_from(["type", "dev", "file", "bus", "model", "relabel", "mode", "path"]),
                              st.text("abc:/0-<&'\u00e9", max_size=8), max_size=3)  # fmt: skip
_TAGS = st.sampled_from(
    """name memory vcpu os type loader nvram kernel cmdline boot cpu feature clock on_reboot devices emulator disk
    driver source target readonly transient seclabel label serial console interface mac uuid backingStore
    qemu:commandline""".split()  # noqa: SIM905 - a table
)


def _element(tag: str, attributes: dict[str, str], inner: list[str]) -> str:
    from xml.sax.saxutils import quoteattr

    return (
        f"<{tag}{''.join(f' {key}={quoteattr(value)}' for key, value in attributes.items())}>{''.join(inner)}</{tag}>"
    )


_TREES = st.recursive(
    st.sampled_from(["x", "1", "hvm", "/a", "&amp;"]),
    lambda inner: st.builds(_element, _TAGS, _ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=20,
)


@given(st.lists(_TREES, max_size=6))
def test_a_strange_domain_is_a_vm_or_problems(parts: list[str]) -> None:
    space = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    head = f"<domain type='kvm' {space}><name>x</name><memory>1</memory><os><type>hvm</type></os>"
    with suppress(SpecError):
        found = read(f"{head}{''.join(parts)}</domain>")
        assert loader.parse(writer.write(found.vm, comments=found.origins), "f") == found.vm


# ---- what would change the machine, or a file, in silence

FLASH = "<loader type='pflash'>/f.fd</loader>"
KEPT: dict[str, dict[str, Any]] = {
    f"<os>{FLASH}<nvram format='qcow2'>/v</nvram></os>": {"nvram": "/v", "nvram_format": "qcow2"},
    "<os><loader type='pflash' format='qcow2'>/f</loader></os>": {"firmware": "/f", "firmware_format": "qcow2"},
    f"<os>{FLASH}<nvram type='block'><source dev='/dev/vg/v'/></nvram></os>": {"nvram": "/dev/vg/v"},
    f"<os>{FLASH}<nvram type='file'><source file='/v'/></nvram></os>": {"nvram": "/v"},
    "<os><kernel/><initrd/></os>": {"kernel": None, "initrd": None},
    "<os><kernel>/k</kernel><initrd/><cmdline/></os>": {"kernel": "/k", "initrd": None, "cmdline": None},
    "<cpu mode='host-model'/>": {"cpu": "host"},
    "<memoryBacking><hugepages/></memoryBacking>": {"memory_backing": "hugepages"},
    "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>": {"memory_backing": "memfd"},
}
DEVICE: dict[str, dict[str, Any]] = {
    "<disk device='cdrom'><driver type='qcow2'/><source file='/c'/><target dev='hda'/></disk>": {
        "cdrom": "/c", "cdrom_format": "qcow2",
    },
    "<disk device='cdrom'><driver type='raw'/><source file='/c'/><target dev='hda'/></disk>": {"cdrom_format": None},
    "<disk device='cdrom'><source file=''/><target dev='hda'/></disk>": {"cdrom": None},
    "<disk device='floppy' type='block'><source dev=''/><target dev='fda'/></disk>": {"disks": ()},
    "<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>": {"rng": "/dev/hwrng"},
    "<rng model='virtio'><backend model='random'/></rng>": {"rng": "/dev/random"},
    "<memballoon model='virtio'/>": {"balloon": True},
    "<memballoon model='none'/>": {"balloon": False},
    "<vsock model='virtio'><cid auto='no' address='7'/></vsock>": {"vsock": 7},
    "<sound model='ac97'/>": {"sound": "ac97"},
    "<input type='tablet' bus='usb'/><input type='mouse' bus='ps2'/>": {"input": ("tablet",)},
    "<tpm><backend type='emulator'><source type='dir' path='/t'/></backend></tpm>": {"tpm.state": "/t"},
}  # fmt: skip


@pytest.mark.parametrize("inner", [*KEPT, *DEVICE])
def test_what_a_spec_can_say_is_carried_over(inner: str) -> None:
    text = FRAME.format(inner) if inner in KEPT else DEVICES.format(inner)
    vm = read(text.replace("<os><type>hvm</type></os><os>", "<os><type>hvm</type>")).vm
    for name, value in (KEPT | DEVICE)[inner].items():
        found: Any = vm
        for part in name.split("."):
            found = getattr(found, part)
        assert found == value


LEFT_OUT = {
    "<tpm><backend type='emulator'><encryption secret='x'/></backend></tpm>": "its state is encrypted",
    "<tpm><backend type='emulator'><source type='file' path='/t'/></backend></tpm>": "not a folder of the host",
    "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>": "no TPM of type 'passthrough'",
    "<hostdev type='mdev'><source><address uuid='x'/></source></hostdev>": "host device of type='mdev'",
    "<hostdev type='scsi'><source><adapter name='x'/></source></hostdev>": "host device of type='scsi'",
    "<hostdev type='pci' managed='yes'><source><address bus='1'/></source></hostdev>": "set-override 0000:01:00.0",
    "<vsock><cid auto='yes'/></vsock>": "libvirt would choose a number",
    "<rng model='virtio'><backend model='egd'/></rng>": "source of type 'egd'",
    "<sound model='es1370'/>": "the sound card 'es1370'",
    "<memballoon model='xen'/>": "the balloon 'xen'",
    "<input type='evdev'><source dev='/dev/input/event0'/></input>": "does not know 'evdev'",
    "<interface type='bridge'><source bridge='b'/></interface>": "a spec has none of type='bridge'",
    "<interface type='direct'><source dev='e0' mode='bridge'/><target dev='m0'/></interface>": (
        "link e0 name m0 type macvtap mode bridge\0write network: {type: tap, fd: 3}\0run the VM with 3<>/dev/tap$("
    ),
    "<interface type='direct'><source dev='e;0'/></interface>": "link 'e;0' name macvtap0 type macvtap mode vepa",
}


@pytest.mark.parametrize("inner", LEFT_OUT)
def test_what_a_spec_cannot_say_is_in_the_list(inner: str) -> None:
    [line] = [line for line in lost(DEVICES.format(inner)) if LEFT_OUT[inner] in line]
    assert line.startswith("line 1: devices/")


CDROM = "<disk device='cdrom'><source file='/c'>{}</source><target dev='hda'/></disk>"
REFUSED = {
    CDROM.format("<seclabel relabel='no'><label>a:b:c:s0</label></seclabel>"): "a label, and relabel says no",
    CDROM.format("<seclabel relabel='perhaps'/>"): "expected yes or no, got 'perhaps'",
    "<serial type='file'><source path='/s'><seclabel relabel='no'/></source></serial>": (
        "no seclabel for a serial line's file"
    ),
    "<tpm><backend type='emulator'><source type='dir' path='/t'><seclabel relabel='no'/></source></backend></tpm>": (
        "no seclabel for a TPM's state"
    ),
}


@pytest.mark.parametrize("inner", REFUSED)
def test_a_files_own_label_is_kept_or_the_domain_is_refused(inner: str) -> None:
    with pytest.raises(SpecError, match=REFUSED[inner]) as caught:
        read(DEVICES.format(f"\n{inner}"))
    [problem] = caught.value.problems
    assert problem.startswith("d.xml:2:")


@pytest.mark.parametrize(
    ("inner", "label", "relabel"),
    [("model='selinux' relabel='no'/>", None, False), ("><label>a:b:c:s0</label></seclabel>", "a:b:c:s0", None)],
)
def test_a_cdroms_own_label_is_the_vms(inner: str, label: str | None, relabel: bool | None) -> None:
    vm = read(DEVICES.format(CDROM.format(f"<seclabel {inner}"))).vm
    [found] = render.invocation(vm, "/").resources
    assert (found.path, found.relabel, found.label and str(found.label)) == ("/c", relabel, label)
    assert writer.write(vm).count("cdrom_seclabel:") == 1


ARGUED = {
    "<os><acpi><table type='raw'>/a,b</table><table type='msdm'>/m</table></acpi></os>": (
        ["-acpitable", "file=/a,,b", "-acpitable", "sig=MSDM,file=/m"], ["/a,b", "/m"],
    ),
    "<sysinfo type='fwcfg'><entry name='opt/a'>x,y</entry><entry name='opt/b' file='/i,n'/></sysinfo>": (
        ["-fw_cfg", "name=opt/a,string=x,,y", "-fw_cfg", "name=opt/b,file=/i,,n"], ["/i,n"],
    ),
    "<devices><serial type='file'><source path='/l,g' append='on'/></serial></devices>": (
        ["-chardev", "file,id=serial0,path=/l,,g,append=on", "-serial", "chardev:serial0"], ["/l,g"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("inner", ARGUED)
def test_files_that_a_spec_has_no_key_for_are_options_of_qemu(inner: str) -> None:
    arguments, paths = ARGUED[inner]
    found = read(FRAME.format(inner).replace("<os><type>hvm</type></os><os>", "<os><type>hvm</type>"))
    assert list(found.vm.qemu_args) == arguments
    assert [one.path for one in render.invocation(found.vm, "/").resources] == paths
    assert found.lost == ()


CDS = "".join(f"<disk device='cdrom'><source file='/{name}'/><target dev='sd{name}'/></disk>" for name in "abcdef")


@pytest.mark.parametrize(("machine", "indexes"), [("pc", [3]), ("q35", [5, 4, 3])])
def test_more_cdroms_than_one_are_options_of_qemu_as_far_as_there_are_places(machine: str, indexes: list[int]) -> None:
    text = DEVICES.format(CDS).replace("<type>", f"<type machine='{machine}'>")
    found = read(text)
    assert found.vm.cdrom == "/a"
    places = enumerate(indexes)
    wanted = [f"if=ide,media=cdrom,index={at},format=raw,readonly=on,file=/{'bcd'[n]}" for n, at in places]
    assert [one for one in found.vm.qemu_args if one != "-drive"] == wanted
    assert len(found.lost) == 5 - len(indexes)
    resources = render.invocation(found.vm, "/").resources
    assert {(one.role, one.access) for one in resources} == {("cdrom", "ro")}


def test_what_is_lost_names_its_files() -> None:
    inner = "<parallel type='file'><source path='/p.log'/></parallel><memory><source><path>/n</path></source></memory>"
    assert lost(DEVICES.format(inner)) == [
        "line 1: devices/parallel ('/p.log'): a spec has no key for it",
        "line 1: devices/memory ('/n'): a spec has no key for it",
    ]


def test_a_table_or_text_of_another_kind_is_lost_and_said() -> None:
    text = FRAME.format("<os><acpi><table type='new'>/t</table></acpi></os><sysinfo type='smbios'/>")
    text = text.replace("<os><type>hvm</type></os><os>", "<os><type>hvm</type>")
    assert lost(text) == [
        "line 1: os/acpi/table: left out: QEMU reads no table of type='new'",
        "line 1: sysinfo: a spec has no key for it",
    ]


def test_an_unknown_format_of_the_firmwares_variables_is_refused() -> None:
    inside = f"<type>hvm</type>{FLASH}<nvram format='new'>/v</nvram>"
    text = FRAME.format("").replace("<type>hvm</type>", inside)
    with pytest.raises(SpecError, match="os/nvram@format: a spec does not know the format 'new'"):
        read(text)


def test_a_card_that_cannot_be_plugged_in_hides_no_other() -> None:
    cards = "<interface type='network'/><interface type='user'/><interface type='bridge'/>"
    vm = read(DEVICES.format(cards)).vm
    assert (vm.network.type, vm.networks) == ("user", ())
    tap = "<interface type='ethernet'><target dev='t0'/></interface>"
    vm = read(DEVICES.format(f"<interface type='user'/><interface type='network'/>{tap}")).vm
    assert [card.type for card in vm.cards] == ["user", "tap"]
    assert vm.network.type == "none"


def test_host_model_is_the_best_that_tcg_has() -> None:
    text = FRAME.format("<cpu mode='host-model'/>").replace("'kvm'", "'qemu'")
    assert read(text).vm.cpu == "max"
    assert lost(text) == ["line 1: cpu@mode='host-model': the guest gets the best CPU that QEMU emulates (cpu: max)"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("<vendor id='0x046d'/><product id='0xc52b'/>", "usb:046d:c52b"),
        ("<address bus='1' device='12'/>", "usb:1/12"),
    ],
)
def test_host_devices_by_what_the_domain_calls_them(source: str, name: str) -> None:
    vm = read(DEVICES.format(f"<hostdev mode='subsystem' type='usb'><source>{source}</source></hostdev>")).vm
    assert [str(one) for one in vm.host_devices] == [name]
    address = "<address domain='0x0000' bus='0x06' slot='0x1f' function='0x2'/>"
    vm = read(DEVICES.format(f"<hostdev type='pci'><source>{address}</source></hostdev>")).vm
    assert [str(one) for one in vm.host_devices] == ["pci:0000:06:1f.2"]


# ---- the writer


def _writable(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


@given(spec_documents(), st.lists(hostile, max_size=3))
def test_what_is_written_is_read_back(document: dict[str, object], comments: list[str]) -> None:
    vm = loader.parse(yaml.safe_dump(document), "f")
    text = writer.write(vm, head=comments, tail=comments, comments={"name": "".join(comments), "disks[0]": "\n"})
    assert loader.parse(text, "f") == vm
    yaml.safe_load(text)


@given(hostile.filter(_writable))
def test_a_text_means_the_same_to_every_reader(text: str) -> None:
    assert yaml.safe_load(f"key: {writer.quoted(text)}\n") == {"key": text}


@pytest.mark.parametrize(
    "word", ["yes", "NO", "on", "1:30", "~", "null", "", "0x1f", "-", "2001-01-01", "a: b", "a #b"]
)
def test_what_yaml_takes_for_something_else_is_quoted(word: str) -> None:
    assert writer.quoted(word) == f'"{word}"'


def test_a_domain_stands_for_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "d.xml"
    path.write_text(DEVICES.format("<disk><source file='/a,b'/><target dev='vda'/></disk><novel model='ich9'/>"))
    found = inputs.from_spec(os.fspath(path))
    assert [resource.path for resource in found.resources] == ["/a,b"]
    assert found.remarks == (f"{path}: not carried over: line 1: devices/novel: a spec has no key for it",)
