"""xl.cfg, written in one place: every text from a spec is escaped, or refused. Pure.

xl's lexer (libxlu_cfg_l.l) reads strings in double quotes with C's escapes. A disk is a comma list inside such a string
(libxlu_disk_l.l), whose `target=` takes the rest of it but for a comma at the end; its path then goes through hotplug
scripts of a shell, which do not quote it.
"""

from __future__ import annotations

import re

from confined_qemu.model.errors import ValueProblem, printable
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from confined_qemu.model.xen import XenDisk, XenDomain

_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9/._+@=~-]*")
_SURROGATES: Final = range(0xD800, 0xE000)
"""What Python makes of bytes that are not UTF-8."""
_ENDS: Final = ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
"""xl would start a rebooted domain again, and labels would outlive their launch."""


def config(domain: XenDomain, label: str, uuid: str, disks: dict[str, str]) -> str:
    """Return the text of xl.cfg; `disks` has the path without links of each disk, by its path in `domain`.

    Raises:
        ValueProblem: a text that xl cannot be given.
    """
    lines = [
        f"name = {quoted(domain.name, 'name')}",
        f"uuid = {quoted(uuid, 'uuid')}",
        f"type = {quoted(domain.type, 'type')}",
        f"kernel = {quoted(domain.kernel, 'kernel')}",
    ]
    if domain.initrd is not None:
        lines.append(f"ramdisk = {quoted(domain.initrd, 'initrd')}")
    if domain.cmdline is not None:
        lines.append(f"cmdline = {quoted(domain.cmdline, 'cmdline')}")
    lines += [f"memory = {domain.memory}", f"maxmem = {domain.memory}", f"vcpus = {domain.cpus}"]
    rows = [quoted(_disk(disk, disks[disk.path]), disk.source) for disk in domain.disks]
    lines.append(f"disk = [{', '.join(rows)}]")
    lines.append(f"seclabel = {quoted(label, 'seclabel')}")
    lines += [f'{key} = "destroy"' for key in _ENDS]
    return "\n".join(lines) + "\n"


def quoted(text: str, key: str) -> str:
    """Return `text` as a string of xl.cfg.

    Raises:
        ValueProblem: it holds a control character or bytes that are not UTF-8.
    """
    for character in text:
        if ord(character) < ord(" ") or character == "\x7f" or ord(character) in _SURROGATES:
            what = f"{key}: {printable(text)} has {printable(character)} in it, which xl.cfg cannot hold"
            raise ValueProblem(what, hint="leave it out")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _disk(disk: XenDisk, path: str) -> str:
    if _PLAIN_PATH.fullmatch(path) is None:
        what = f"{disk.source}: Xen's tools hand a disk's path to a shell, so {printable(path)} is not taken"
        raise ValueProblem(what, hint="name it with letters, digits and / . _ + @ = ~ - only")
    access = "ro" if disk.readonly else "rw"
    return f"format=raw,vdev={disk.device},access={access},target={path}"
