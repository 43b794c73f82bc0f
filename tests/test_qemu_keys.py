"""The reader of command lines against tables from QEMU's own sources, older and newer than the one installed here.

A table of a new version is made by `integration.guestlib.qemukeys`; what it has that nobody has looked at fails here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.reader import read
from integration.guestlib import qemukeys

TABLES = sorted((Path(__file__).parent / "golden" / "qemu-keys").glob("*.txt"))
FILE = "mark"
"""A relative name: one under a key that is not known is no mistake to the reader, so it shows what is not read."""
NO_FILES = {
    "audiodev": "audiodev client-name connect-ports dev id name pa:server server-name stream-name",
    "blockdev": """
        bottom cid cookie cookie-secret export hash host image initiator-name key-secret label name namespace node
        node-name password-secret gluster:path nfs:path ssh:path pool port portal pr-manager proxy-password-secret
        proxy-username snapshot str target throttle-group tls-creds tls-hostname top-id url user username volume
        x-dirty-bitmap
    """,
    "display": "addr audiodev charset",
    "netdev": """
        addr address bootfile br chardev cid connect devname dhcpstart dns dns-forward dns-host domainname dst dstport
        end-address fd fds fqdn gateway group host hostname id ifname interface ip ipv6-dns ipv6-host ipv6-prefix
        listen localaddr mac macaddr map-guest-addr map-host-loopback mcast model nat66-prefix net net-uuid netdev
        netmask outbound outbound-if4 outbound-if6 port smbserver sock-fds src srcport start-address str subnet-mask
        tftp-server-name udp vhostfd vhostfds
    """,
    "object": """
        addr canbus chardev cid data device devid fd guest-visible-workarounds height host host-data id id-auth
        id-block id-list identity if indev iothread iv keyid match mrconfigid mrowner mrownerconfig name netdev
        notify_dev outdev passwordid pci-bus pci-dev port position prealloc-context primary_in priority secondary_in
        server service status str username width x-origin y-origin
    """,
    "property": """
        addr aia aia-guests append audiodev backend bmc-console boot-cpu boot-mode bootargs cert1 cert2 cert3 chardev
        chnA-sunkbd-layout cmdline color command-line cpu-type data desc description device device_id devid display
        dt-compatible duplex failover_pair_id fd fdp.ruhs filter fmc-model fsdev gic-version guest-visible-workarounds
        hart-config hba_serial height host host-data host-model host-serial host_ip hostport hv-vendor-id ic-mode
        id-auth id-block id-list identity if indev insert iommu iv keyid kvm-type loadparm masterbus memory-encryption
        model model-id module-id mount_tag mrconfigid mrowner mrownerconfig name netdev notify_dev nqn
        nvdimm-persistence osk ospi-flash outdev part-name passwordid pci-bus pci-dev pci-id port position primary_in
        priority priv_spec product remap resize-hpt riscv-aia secondary_in serial server service signature soc_name
        spi-model sriov-pf stage status sysplex_name system_name system_type tag target thread tls-authz tls-creds
        tls-hostname tx type username vendor ver version vext_spec vfiofd vhostfd via width world wsi wwpn x-oem-id
        x-oem-table-id x-origin y-origin
    """,
    "text": """
        accel addr aio append arg asset audiodev backend bank base chardev chardevs.0 chardevs.1 chardevs.2 chardevs.3
        clock date designation detect-zeroes discard display driftfix driver dt_compatible elevateprivileges enable
        encrypt.cipher-alg encrypt.format encrypt.key-secret event export external_reference family fd format fsdriver
        gen_id guest header-digest host host_key_check if image-compression initiator-name internal_reference iotype
        jpeg-wan-compression kind label loadparm loc_pfx localaddr localport location locking manufacturer media
        mem-lock mode mount_tag multidevs name node-name obsolete once opaque order panic part password
        password-secret pci_device pcidev plaintext-channel port portal pr-manager process product property reboot
        release rerror resourcecontrol rr rrsnapshot sasl-authz security_model serial share shift shutdown sku
        slot_designation sock_pfx spawn streaming-video string target throttling.group tls-authz tls-channel
        tls-ciphers tls-creds tls-hostname transport type user uuid value vendor version video-codec vnc watchdog
        websocket werror writeout x-dirty-bitmap x509-key-password zlib-glz-wan-compression
    """,
}
"""Keys that name no file of the host, `DRIVER:KEY` where another driver's do: ids, addresses, words, a server's names.

PulseAudio's `server` names one only where it begins with a slash, and tests of its own hold that. A chardev's members
are held by the test of the installed QEMU's schema: the command line's own keys are in `text`.
"""
_ELSEWHERE = {
    "property": "addr.path bios-name db firmware kernel initrd shim dtb dumpdtb sysfsdev host-path ibdev",
    "text": "config dir event events file filename fd input-path logfile path rrfile socket splash x-image x-raw",
}
"""Known under another option than the table's: the machine's and the accelerator's, and each list's."""


def known(kind: str) -> set[str]:
    """Return every key that some option reads as a file."""
    keys = {key.rpartition(":")[2] for option in OPTIONS.values() for key in option.keys}
    return keys | set(NO_FILES[kind].split()) | set(_ELSEWHERE[kind].split())


def _with(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with(inner) for key, inner in value.items()}
    return FILE if value == qemukeys.MARK else value


def _leaf(value: dict[str, Any], driver: str = "") -> tuple[str, str]:
    for key, inner in value.items():
        if inner == qemukeys.MARK:
            return driver, key
        if isinstance(inner, dict):
            return _leaf(inner, driver)
        driver = inner if key in {"driver", "qom-type", "type"} else driver
    raise AssertionError(value)


def is_read(option: str, value: dict[str, Any]) -> bool:
    """Tell whether the reader finds the file, refuses it, or knows that it is none."""
    driver, key = _leaf(value)
    if {key, f"{driver}:{key}"} & set(NO_FILES[option].split()):
        return True
    try:
        found = read("qemu", [f"-{option}", json.dumps(_with(value))])
    except CommandLineError as error:
        return FILE in str(error)
    paths = [one.path for one in found.resources] + [one.path for one in found.listeners]
    return any(FILE in path for path in paths)


def unread(lines: list[str]) -> list[str]:
    """Return the lines of a table that the reader of command lines does not know."""
    missing = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "option":
            name, _, takes = rest.partition(" ")
            spec = OPTIONS.get(name)
            good = spec is not None and (spec.kind is not Kind.FLAG) == bool(takes)
        elif kind in {"property", "text"}:
            good = rest in known(kind)
        else:
            good = kind == "chardev" or is_read(kind, json.loads(rest))
        if not good:
            missing.append(line)
    return missing


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_key_of_a_version_is_read_or_names_no_file(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) > 500
    assert unread(lines) == []


def test_a_new_key_shows_up() -> None:
    new = [
        "option new-option value", "property new-file", "text new-path",
        'object {"qom-type": "secret", "new-file": "@"}', 'netdev {"type": "tap", "new-script": "@"}',
    ]  # fmt: skip
    assert unread(new) == new
    assert unread(['object {"qom-type": "secret", "file": "@"}', "option kernel value"]) == []


def test_the_tables_are_of_several_versions() -> None:
    assert [path.stem for path in TABLES] == ["10.0", "10.2", "7.2"]
