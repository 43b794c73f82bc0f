"""The file name of a disk as QEMU's block layer reads it: a path, `PROTOCOL:…`, a URL or `json:{…}`. Pure.

Source: `block.c` (`path_has_protocol`, `bdrv_find_protocol`) and each driver's `bdrv_parse_filename`.
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.keyvals import json_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = frozenset({"file", "host_device", "host_cdrom"})
"""Drivers whose `filename` is a file of the host."""
_REMOTE = frozenset(
    """
    ftp ftps http https iscsi iser nfs null-aio null-co sheepdog sheepdog+tcp sheepdog+unix ssh
    gluster gluster+tcp gluster+rdma nbd+tcp nbds nbds+tcp
    """.split()  # noqa: SIM905 - a table, not a line for each word
)
"""Protocols whose names hold no file of the host."""
FILTERS = frozenset(
    """
    blkdebug blklogwrites blkreplay blkverify compress copy-before-write copy-on-read preallocate quorum
    replication snapshot-access throttle
    """.split()  # noqa: SIM905 - a table, not a line for each word
)
"""Drivers that stand above another node and leave its format alone."""
PROTOCOLS = (
    FILES
    | _REMOTE
    | FILTERS
    | frozenset(
        """
    gluster+unix io_uring nbd nbd+unix nbds+unix nvme nvme-io_uring rbd virtio-blk-vfio-pci virtio-blk-vhost-user
    virtio-blk-vhost-vdpa vvfat
    """.split()  # noqa: SIM905 - a table, not a line for each word
    )
)
"""Drivers without a format of their own; any other driver reads an image format."""


def expand(option: str, filename: str) -> dict[str, str]:
    """Return the block node's options that `filename` stands for, with dotted keys.

    A plain path is `{"filename": path}`, as its driver depends on what is there. Names within names
    (`blkdebug:CONFIG:NAME`) are left as `x-image` and `x-raw`.

    Raises:
        CommandLineError: a protocol that is not known, so that nobody can say which files it opens.
    """
    colon = filename.find(":")
    if colon < 0 or "/" in filename[:colon]:
        return {"filename": filename}
    protocol, rest = filename[:colon], filename[colon + 1 :]
    if protocol == "json":
        return dict(json_pairs(option, rest))
    if protocol in FILES:
        return {"driver": protocol, "filename": rest}
    if protocol in _REMOTE:
        return {"driver": protocol}
    reader = _READERS.get(protocol)
    if reader is None:
        raise CommandLineError(
            f"-{option} {filename!r}: unknown protocol {protocol!r}",
            hint="for a file whose name has a colon, use ./NAME",
        )
    return reader(rest)


def _fat(rest: str) -> dict[str, str]:
    """Read `fat:[floppy:][32:|16:|12:][rw:]FOLDER` (`block/vvfat.c`): the folder is behind the last colon."""
    colon = rest.rfind(":")
    if colon == 1 and rest[0].isascii() and rest[0].isalpha():
        colon = -1  # a drive letter, as on Windows
    elif colon > 1 and rest[colon - 2] == ":" and rest[colon - 1].isascii() and rest[colon - 1].isalpha():
        colon -= 2
    writes = {"rw": "on"} if ":rw:" in f":{rest}" else {}  # wherever it stands, QEMU takes it so
    return {"driver": "vvfat", "dir": rest[colon + 1 :], **writes}


def _nbd(rest: str) -> dict[str, str]:
    """Read `nbd:unix:SOCKET[:exportname=NAME]`, `nbd:HOST:PORT` or `nbd://…`."""
    if not rest.startswith("unix:"):
        return {"driver": "nbd"}
    return {"driver": "nbd", "path": rest.removeprefix("unix:").partition(":exportname=")[0]}


def _nbd_unix(rest: str) -> dict[str, str]:
    sockets = [path for key, path in _query(rest) if key == "socket"]
    return {"driver": "nbd", "path": sockets[-1]} if sockets else {"driver": "nbd"}


def _gluster_unix(rest: str) -> dict[str, str]:
    found = {"driver": "gluster"}
    for key, value in _query(rest):
        if key == "socket":
            found |= {"server.0.type": "unix", "server.0.path": value}
        elif key == "logfile":
            found["logfile"] = value
    return found


def _query(url: str) -> list[tuple[str, str]]:
    from urllib.parse import unquote

    query = url.partition("?")[2].partition("#")[0]
    parts = [part.partition("=") for part in query.replace(";", "&").split("&")]
    return [(key, unquote(value, errors="surrogateescape")) for key, _, value in parts]


def _rbd(rest: str) -> dict[str, str]:
    """Read `rbd:POOL/IMAGE[:KEY=VALUE…]`; a backslash keeps the next character (`block/rbd.c`).

    A key is one of librados', whose words are parted by a space, a dash or an underscore.
    """
    import re

    found = {"driver": "rbd"}
    for part in re.findall(r"(?:\\.|[^:\\])+", rest, re.DOTALL)[1:]:
        key, _, value = part.partition("=")
        name = re.sub("[ -]", "_", key)
        found["user" if name == "id" else name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    return found


def _blkdebug(rest: str) -> dict[str, str]:
    config, _, image = rest.partition(":")
    return {"driver": "blkdebug", "config": config, "x-image": image}


def _blkverify(rest: str) -> dict[str, str]:
    raw, _, image = rest.partition(":")
    return {"driver": "blkverify", "x-raw": raw, "x-image": image}


def _nvme(rest: str) -> dict[str, str]:
    """Read `nvme://0000:01:00.0/NAMESPACE` (`block/nvme.c`)."""
    return {"driver": "nvme", "device": rest.removeprefix("//").partition("/")[0]}


_READERS: dict[str, Callable[[str], dict[str, str]]] = {
    "fat": _fat,
    "nbd": _nbd,
    "nbd+unix": _nbd_unix,
    "nbds+unix": _nbd_unix,
    "gluster+unix": _gluster_unix,
    "nvme": _nvme,
    "rbd": _rbd,
    "blkdebug": _blkdebug,
    "blkverify": _blkverify,
}
