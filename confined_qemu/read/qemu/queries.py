"""Which command lines only print something: they start no VM, so they get no labels and no latency.

Nothing heavy is imported here: a client may ask `-version` before each of a thousand VMs. An answer of True is
certain: QEMU prints and ends before it makes a machine, or refuses the command line before that
(`softmmu/vl.c`, `qemu_init`). The rules of `_ONLY_WORD` and the ones after it were seen with QEMU 7.2.
"""

from __future__ import annotations

from confined_qemu.model.commas import split

TYPE_CHECKING = False  # as typing's own, which would load `re` and half a dozen more
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FLAGS = frozenset(
    """
    h help version audio-help
    async-teardown daemonize enable-kvm enable-sync-profile full-screen jitdump mem-prealloc no-acpi
    no-fd-bootchk no-hpet no-kvm no-reboot no-shutdown no-user-config nodefaults nographic old-param
    only-migratable perfmap portrait preconfig S s semihosting singlestep snapshot usb win2k-hack
    xen-attach xen-domid-restrict
    """.split()  # noqa: SIM905 - a table, not a line for each word
)
"""The options that take no value (`qemu-options.hx`, those without HAS_ARG); every other takes one."""

_PRINTING = frozenset({"h", "help", "version", "audio-help"})
_WORDS = ("help", "?")
_ONLY_WORD = frozenset(
    """
    L M action add-fd audio audiodev blockdev boot compat cpu d display global iscsi machine msg nic overcommit rtc
    smbios smp spice tpmdev vga vnc
    """.split()  # noqa: SIM905 - as above
)
"""Options that end QEMU when the whole value is the word: most print help, `blockdev`, `compat`, `nic` and `smbios` say
that they have none."""
_FIRST_KEY = {
    "accel": "accel",
    "chardev": "backend",
    "device": "driver",
    "netdev": "type",
    "object": "qom-type",
    "trace": "enable",
}
"""Comma lists that print help when this key, which the first item may leave out, has the word as its value."""
_ANY_ITEM = frozenset({"M", "machine", "device", "object"})
"""Comma lists that print the properties of what they name when an item is the bare word."""
_KEY = {"audio": "model", "drive": "format"}
"""Comma lists that print help when this key has the word as its last value."""


def name_of(argument: str) -> str | None:
    """Return the option that `argument` names, `--opt` being `-opt`, or None for a positional disk image."""
    if not argument.startswith("-"):
        return None
    return argument[2:] if argument.startswith("--") else argument[1:]


def walk(arguments: Sequence[str]) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield `(index, option, value)` for each option, in order, as QEMU takes its command line apart.

    `option` is None for a positional disk image, which is then the value; `value` is None for an option that
    takes none, or whose value is missing at the end.
    """
    index = 0
    while index < len(arguments):
        option = name_of(arguments[index])
        if option is None:
            yield index, None, arguments[index]
        elif option in FLAGS:
            yield index, option, None
        else:
            yield index, option, arguments[index + 1] if index + 1 < len(arguments) else None
            index += 1
        index += 1


def is_query(arguments: Sequence[str]) -> bool:
    """Tell whether these arguments make QEMU print something (`-version`, `-device help`) and start no VM."""
    for _, option, value in walk(arguments):
        if option in _PRINTING:
            return True
        if option is not None and value is not None and _help_wanted(option, value):
            return True
    return False


def _help_wanted(option: str, value: str) -> bool:
    if not value.endswith(_WORDS) and "help" not in value and "?" not in value:
        return False
    if option in _ONLY_WORD and value in _WORDS:
        return True
    if value.startswith("{"):
        return False
    items = split(value)
    if option in _ANY_ITEM and any(item in _WORDS for item in items[1:]):
        return True
    key = _FIRST_KEY.get(option)
    if key is not None:
        items = (items[0] if "=" in items[0] else f"{key}={items[0]}", *items[1:])
    key = key or _KEY.get(option)
    last = [item.removeprefix(f"{key}=") for item in items if key and item.startswith(f"{key}=")][-1:]
    return bool(last) and last[0] in _WORDS
