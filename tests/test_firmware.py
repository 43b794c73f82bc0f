"""Firmware of a domain that libvirt would choose: by the host's descriptors, in their order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import firmware
from confined_qemu.launch import inputs
from confined_qemu.model.errors import HostError
from confined_qemu.read.libvirt import carrying, domain

if TYPE_CHECKING:
    from pathlib import Path

    from confined_qemu.read.spec.vm import VM


def described(code: str, *features: str, machines: str = "pc-q35-*", form: str = "raw") -> str:
    mapping = {
        "device": "flash",
        "executable": {"filename": f"/{code}.fd", "format": form},
        "nvram-template": {"filename": f"/{code}_VARS.fd", "format": form},
    }
    targets = [{"architecture": "x86_64", "machines": machines.split()}]
    return json.dumps(
        {"interface-types": ["uefi"], "mapping": mapping, "targets": targets, "features": features, "tags": []}
    )


GUARDED = described("guarded", "secure-boot", "enrolled-keys", "requires-smm")
SECURE = described("secure", "secure-boot", "requires-smm")
PLAIN = described("plain", machines="pc-i440fx-* pc-q35-*")
PACKED = described("packed", form="qcow2")
ROM = json.dumps(json.loads(PLAIN) | {"mapping": {"device": "memory", "filename": "/rom.bin"}}).replace("uefi", "bios")
ALL = (GUARDED, SECURE, PLAIN, PACKED)


def read(system: str, *descriptors: str, machine: str = "q35", features: str = "") -> tuple[VM, list[str]]:
    kind = f"<type arch='x86_64' machine='{machine}'>hvm</type>"
    text = f"<domain type='kvm'><name>x y</name><memory>1024</memory>{system.format(kind)}{features}</domain>"
    found = domain.parse(text, "d.xml", descriptors)
    return found.vm, [line for line in carrying.lines_of(found.lost) if "becomes" not in line]


EFI = "<os firmware='efi'>{}</os>"
COPY = "line 1: {}: the file is not copied from its template\0if it is missing: install -D -m 600 /{}_VARS.fd {}"
PLACE = "/var/lib/libvirt/qemu/nvram/x-y_VARS.fd"


@pytest.mark.parametrize(
    ("system", "machine", "features", "code"),
    [
        (EFI, "q35", "", "guarded"),
        (EFI, "pc-q35-9.0", "", "guarded"),
        (EFI, "pc", "", "plain"),
        (EFI, "pc-i440fx-7.2", "", "plain"),
        (EFI, "q35", "<features><smm state='off'/></features>", "plain"),
        ("<os firmware='efi'>{}<loader secure='yes'/></os>", "q35", "", "guarded"),
        ("<os firmware='efi'>{}<loader secure='no'/></os>", "q35", "", "plain"),
        (
            "<os firmware='efi'>{}<firmware><feature enabled='no' name='enrolled-keys'/></firmware></os>",
            "q35", "", "secure",
        ),
        (
            "<os firmware='efi'>{}<firmware><feature enabled='no' name='secure-boot'/></firmware></os>",
            "q35", "", "plain",
        ),
    ],
)  # fmt: skip
def test_the_first_that_fits_is_taken(system: str, machine: str, features: str, code: str) -> None:
    vm, lost = read(system, *ALL, machine=machine, features=features)
    assert (vm.firmware, vm.nvram) == (f"/{code}.fd", PLACE)
    assert lost == [COPY.format("os", code, PLACE)]
    guarded = "driver=cfi.pflash01,property=secure,value=on" in vm.qemu_args
    assert guarded == (code != "plain")


def test_a_stated_format_is_a_wish() -> None:
    vm, lost = read("<os firmware='efi'>{}<nvram format='qcow2'/></os>", *ALL)
    assert (vm.firmware, vm.firmware_format) == ("/packed.fd", "qcow2")
    assert (vm.nvram, vm.nvram_format) == ("/var/lib/libvirt/qemu/nvram/x-y_VARS.qcow2", "qcow2")
    assert lost == [COPY.format("os/nvram", "packed", "/var/lib/libvirt/qemu/nvram/x-y_VARS.qcow2")]


def test_a_template_of_another_format_is_converted() -> None:
    line = "qemu-img convert -f raw -O qcow2 /t '/v w'"
    inner = "<loader type='pflash'>/f</loader><nvram template='/t' templateFormat='raw' format='qcow2'>/v w</nvram>"
    assert line in read(f"<os>{{}}{inner}</os>")[1][0]


@pytest.mark.parametrize(("descriptors", "code"), [((), None), ((GUARDED,), None), ((PLAIN,), "/plain.fd")])
def test_where_none_fits_nothing_is_chosen_and_it_is_said(descriptors: tuple[str, ...], code: str | None) -> None:
    vm, lost = read(EFI, *descriptors, machine="pc")
    assert vm.firmware == code
    said = "no descriptor in /usr/share/qemu/firmware or /etc/qemu/firmware fits"
    assert [said in line for line in lost] == [code is None]


def test_firmware_that_is_no_flash_memory_is_a_rom() -> None:
    vm, lost = read("<os firmware='bios'>{}</os>", ROM)
    assert (vm.firmware, vm.nvram, vm.qemu_args, lost) == (None, None, ("-bios", "/rom.bin"), [])
    vm, lost = read("<os firmware='bios'>{}</os>", *ALL)
    assert (vm.qemu_args, lost) == ((), [])


def test_firmware_that_is_stated_is_not_chosen_but_its_template_is_known() -> None:
    vm, lost = read("<os firmware='efi'>{}<loader type='pflash'>/plain.fd</loader></os>", *ALL)
    assert (vm.firmware, vm.nvram) == ("/plain.fd", PLACE)
    assert lost == [COPY.format("os", "plain", PLACE)]
    vm, lost = read("<os>{}<loader type='pflash'>/plain.fd</loader><nvram>/mine</nvram></os>", *ALL)
    assert (vm.firmware, vm.nvram) == ("/plain.fd", "/mine")
    assert lost == [COPY.format("os/nvram", "plain", "/mine")]
    vm, lost = read("<os>{}<loader type='pflash'>/other.fd</loader></os>", *ALL)
    assert (vm.firmware, vm.nvram, lost) == ("/other.fd", None, [])


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", "1", PLAIN.replace("flash", "kernel"), PLAIN.replace('"/plain.fd"', "1"),
        PLAIN.replace("/plain.fd", "/a\\u0000b"), PLAIN.replace('["uefi"]', "null"), "[" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_descriptor_is_passed_over(text: str) -> None:
    assert read(EFI, text, PLAIN)[0].firmware == "/plain.fd"


# ---- the host's folders


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("share", "etc"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(firmware, "SYSTEM", (str(tmp_path / "share"), str(tmp_path / "etc")))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


def test_the_administrators_stand_in_the_place_of_the_distributions(folders: Path) -> None:
    for name in ("share/60-b.json", "share/50-a.json", "share/70-c.json", "share/README", "etc/55-d.json"):
        (folders / name).write_text(name)
    (folders / "etc/60-b.json").write_text("mine")
    (folders / "etc/70-c.json").write_text("")
    assert firmware.descriptors() == ("share/50-a.json", "etc/55-d.json", "mine")


def test_what_cannot_be_read_is_an_error_and_a_folder_that_is_not_there_is_none(folders: Path) -> None:
    (folders / "etc").rmdir()
    assert firmware.descriptors() == ()
    (folders / "share/1.json").mkdir()
    with pytest.raises(HostError, match="Is a directory"):
        firmware.descriptors()


def test_too_much_is_an_error(folders: Path) -> None:
    (folders / "share/1.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(HostError, match="larger than"):
        firmware.descriptors()
    for number in range(300):
        (folders / f"share/{number}.json").touch()
    with pytest.raises(HostError, match="more than 256"):
        firmware.descriptors()


def test_an_import_reads_them(folders: Path) -> None:
    (folders / "share/1.json").write_text(PLAIN)
    path = folders / "d.xml"
    text = "<domain type='kvm'><name>x</name><memory>1024</memory><os firmware='efi'><type>hvm</type></os></domain>"
    path.write_text(text)
    assert "firmware: /plain.fd" in inputs.spec_of(str(path))[0]
    path.write_text(text.replace(" firmware='efi'", ""))
    assert "firmware" not in inputs.spec_of(str(path))[0]
