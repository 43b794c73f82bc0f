"""Small initramfs archives: a static busybox, a few kernel modules in their order, and one init script."""

import glob
import os
import stat
from dataclasses import dataclass

from integration.guestlib.report import GuestError

_MODULES = "/modules"


@dataclass(frozen=True)
class Member:
    """One member of an archive; `device` is (major, minor) of a character device."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def build(root: str, modules: list[str], init: str) -> bytes:
    """Return an uncompressed archive (cpio, "newc").

    Args:
        root: a Debian root that has busybox-static and a kernel.
        modules: names of the kernel modules that are needed, without what they depend on.
        init: the init script; the line `@modules@` in it becomes the insmod lines.
    """
    files = module_files(root, modules)
    loads = "".join(f"insmod {_MODULES}/{os.path.basename(file)}\n" for file in files)
    members = [Member(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "proc", "sys", "tmp", "root", "modules")]
    members.append(Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    members.append(Member("bin/busybox", stat.S_IFREG | 0o755, _read(os.path.join(root, "bin/busybox"))))
    members.append(Member("bin/sh", stat.S_IFLNK | 0o777, b"busybox"))
    members.append(Member("init", stat.S_IFREG | 0o755, init.replace("@modules@\n", loads).encode()))
    members += [Member(f"modules/{os.path.basename(file)}", stat.S_IFREG | 0o644, _read(file)) for file in files]
    return archive(members)


def kernel_version(root: str) -> str:
    """Return the version of the one kernel that is installed in a root folder."""
    found = [os.path.basename(path) for path in glob.glob(os.path.join(root, "lib/modules/*"))]
    if len(found) != 1:
        raise GuestError(f"{root}/lib/modules: one kernel expected, found {len(found)}: {' '.join(sorted(found))}")
    return found[0]


def module_files(root: str, modules: list[str]) -> list[str]:
    """Return the files of modules and of all they depend on, in the order to load them in.

    A module that is built into the kernel has no file and is left out.
    """
    folder = os.path.join(root, "lib/modules", kernel_version(root))
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in _read(os.path.join(folder, "modules.dep")).decode().splitlines():
        path, _, others = line.partition(":")
        needs[_module_name(path)] = (path, others.split())
    builtin = {_module_name(line) for line in _read(os.path.join(folder, "modules.builtin")).decode().splitlines()}
    wanted = [name for name in modules if name not in builtin]
    order: list[str] = []
    for name in wanted:
        if name not in needs:
            raise GuestError(f"{folder}: no kernel module {name}")
        module, deeper = needs[name]
        # modules.dep lists the deepest one last.
        for needed in [*reversed(deeper), module]:
            if needed not in order:
                order.append(needed)
    return [os.path.join(folder, path) for path in order]


def archive(members: list[Member]) -> bytes:
    """Return the members as a cpio archive in the format that the kernel unpacks; always the same bytes."""
    blocks = [_record(number, member) for number, member in enumerate(members, start=1)]
    return b"".join([*blocks, _record(0, Member("TRAILER!!!", 0))])


def _record(inode: int, member: Member) -> bytes:
    name = member.name.encode() + b"\0"
    major, minor = member.device
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = [inode, member.mode, 0, 0, 1, 0, len(member.data), 0, 0, major, minor, len(name), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(member.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _module_name(path: str) -> str:
    return os.path.basename(path).split(".")[0].replace("-", "_")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
