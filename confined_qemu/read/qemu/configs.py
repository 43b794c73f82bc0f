"""QEMU's configuration files (`-readconfig`): text in, the options that its groups stand for out. Pure.

Source: `util/qemu-config.c` (`qemu_config_foreach`) and `softmmu/vl.c` (`qemu_parse_config_group`). QEMU reads with
`sscanf`, which lets much pass that nobody means (`file="x"` without a space is a key without a value); only what is
written as documented is taken here, so that what was read is what QEMU reads.
"""

from __future__ import annotations

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "/etc/qemu/qemu.conf"
"""What QEMU reads before its command line, without `-no-user-config`; it may be missing."""
LARGEST = 1 << 20
"""Bytes; QEMU has no limit, and a machine's groups are a page of text."""
_LONGEST_LINE = 1023
"""Bytes with the newline: QEMU takes what follows for another line."""
_GROUP = r'\[([A-Za-z][\w-]*)(?:\s+"([^"]{1,63})")?\]\s*'
_PAIR = r'\s*([A-Za-z0-9_][\w.:-]{0,62})\s+=\s*"([^"]*)".*'
OPTION_OF = {
    "acpi": "acpitable",
    "boot-opts": "boot",
    "memory": "m",
    "smp-opts": "smp",
    **{
        name: name
        for name in """
            accel action add-fd audiodev chardev device drive fsdev fw_cfg global icount iscsi machine mon msg name
            net netdev nic numa object option-rom overcommit plugin rtc run-with sandbox semihosting-config smbios
            spice tpmdev trace virtfs vnc
        """.split()  # noqa: SIM905 - a table, not a line for each word
    },
}
"""The option that takes the keys of each group (`query-command-line-options`, and `vm_config_groups`)."""


@dataclass(frozen=True, slots=True)
class ConfigGroup:
    """One group: the `number` of its line from 1, and its keys as a comma list, `id` first where it has one."""

    name: str
    number: int
    value: str


def parse(text: str, path: str) -> tuple[ConfigGroup, ...]:
    """Return the groups of a file in order; of two equal keys in a group the last counts.

    Raises:
        CommandLineError: a line that QEMU would refuse, or would read in another way than it looks.
    """
    return tuple(_groups(text, path))


def _groups(text: str, path: str) -> Iterator[ConfigGroup]:
    import re

    name, start, items = "", 0, dict[str, str]()
    for number, line in enumerate(text.split("\n"), start=1):
        if line == "" or line.startswith("#"):
            continue
        if "\0" in line or len(line.encode("utf-8", "surrogateescape")) >= _LONGEST_LINE:
            raise _wrong(
                path, number, f"NUL, or a line of {_LONGEST_LINE} bytes: QEMU reads neither", "write a shorter line"
            )
        if line.startswith("["):
            if name:
                yield ConfigGroup(name, start, _list(items))
            found = re.fullmatch(_GROUP, line, re.ASCII)
            if found is None:
                raise _wrong(path, number, "not a group", 'write [GROUP] or [GROUP "ID"]')
            name, start = found[1], number
            items = {"id": found[2]} if found[2] is not None else {}
            continue
        found = re.fullmatch(_PAIR, line, re.ASCII)
        if found is None:
            raise _wrong(path, number, "not a key with a value", 'write KEY = "VALUE"')
        if not name:
            raise _wrong(path, number, "a key before the first [GROUP]", "write [GROUP] above it")
        items[found[1]] = found[2]
    if name:
        yield ConfigGroup(name, start, _list(items))


def _list(items: dict[str, str]) -> str:
    return ",".join(f"{key}={escape(text)}" for key, text in items.items())


def _wrong(path: str, number: int, what: str, hint: str) -> CommandLineError:
    return CommandLineError(what, where=f"{path}:{number}", hint=hint)
