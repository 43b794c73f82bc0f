"""Landlock's words as values: what the kernel can hold a process to, by its ABI, and what it said of itself. Pure.

Source: include/uapi/linux/landlock.h and Documentation/userspace-api/landlock.rst; the numbers are the kernel's.
"""

from __future__ import annotations

from confined_qemu.model.lean import Enum, IntFlag, dataclass


class Right(IntFlag):
    """What a rule allows with a file, or with all that lies below a folder."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Tcp(IntFlag):
    """What a rule allows with a TCP port."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scope(IntFlag):
    """What stays among the VM's own processes."""

    ABSTRACT_SOCKETS = 1 << 0
    SIGNALS = 1 << 1


class Lacking(Enum):
    """What an older ABI does not hold, and the ABI that does."""

    TRUNCATE = ("truncating files that it may not open", 3)
    TCP = ("TCP", 4)
    IOCTL = ("ioctl on devices", 5)
    SCOPES = ("signals and abstract sockets", 6)

    @property
    def what(self) -> str:
        """Return what is not held."""
        return self.value[0]

    @property
    def since(self) -> int:
        """Return the first ABI that holds it."""
        return self.value[1]


NEWEST = 7
"""The newest ABI whose words are known here; a newer kernel is used as this one."""
_V1 = Right((1 << 13) - 1)
_ADDED = {2: Right.REFER, 3: Right.TRUNCATE, 5: Right.IOCTL_DEV}
FILE_RIGHTS = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
"""What a rule on what is no folder may hold (security/landlock/fs.c, `ACCESS_FILE`)."""

READ = Right.READ_FILE | Right.READ_DIR
"""A file to read, or a folder with all that is in it."""
WRITE = Right.WRITE_FILE | Right.TRUNCATE
RUN = Right.EXECUTE | Right.READ_FILE
DEVICE = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV
TREE = READ | WRITE | _V1 & ~Right.EXECUTE & ~Right.MAKE_CHAR & ~Right.MAKE_BLOCK | Right.REFER
"""A folder of the VM's own, or one that it shares for writing: all but running what lies there and making devices."""


def rights(abi: int) -> Right:
    """Return all that rulesets of this ABI can hold of files."""
    return Right(sum((added for since, added in _ADDED.items() if abi >= since), _V1))


def lacking(abi: int) -> tuple[Lacking, ...]:
    """Return what this ABI does not hold."""
    return tuple(one for one in Lacking if abi < one.since)


@dataclass(frozen=True, slots=True)
class Owned:
    """A part of QEMU's own installation on this host."""

    path: str
    rights: Right
    why: str


@dataclass(frozen=True, slots=True)
class LandlockFacts:
    """The kernel's Landlock, `abi` 0 where it has none, and what the rules are made of.

    `problem` says why the kernel cannot be asked.
    """

    abi: int
    installation: tuple[Owned, ...] = ()
    problem: str | None = None
