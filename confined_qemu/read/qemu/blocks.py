"""Disks on QEMU's command line: `-drive`, `-blockdev`, `-hda` and the like, to the files that they open. Pure.

Source: `blockdev.c` (`drive_new`, `blockdev_init`), `block.c` (`bdrv_open_inherit`, `path_has_protocol`,
`bdrv_find_protocol`), each driver's `bdrv_parse_filename`, `qapi/block-core.json`.
A node of the block layer is a flat mapping with dotted keys here, so that `-drive`, `-blockdev` and JSON are one.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.labelrules import Place
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.resource import PROBED, Access, Role
from confined_qemu.read.qemu.collector import Collector, child, children, deep, json_pairs, objects, pairs, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confined_qemu.model.resource import Resource

_FILES = frozenset({"file", "host_device", "host_cdrom"})
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
    _FILES
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
_REFERENCES = frozenset({"backing", "bottom", "data-file", "file", "header", "image", "log", "raw", "target", "test"})
"""Keys whose plain value is another node's name, never a path."""
_NO_FILES = frozenset(
    "cookie export filename header id image name namespace node-name path pool url user volume".split()  # noqa: SIM905
)
"""Keys whose value may begin with a slash and is none of the host's files, or is read before they are checked."""
_CD = frozenset({"ide-cd", "scsi-cd"})
_FLOPPIES = frozenset({"floppy"})
_NAMED_PATHS = {
    "io_uring": Access.READ_WRITE,
    "nvme-io_uring": Access.READ_WRITE,
    "virtio-blk-vhost-vdpa": Access.READ_WRITE,
    "nbd": Access.CONNECT,
    "virtio-blk-vhost-user": Access.CONNECT,
}
"""Drivers whose `path` is a file of the host; for `ssh`, `nfs` and `gluster` it is the server's."""


_CEPH_FILES = {"conf": Role.CONFIG, "keyring": Role.SECRET, "keyfile": Role.SECRET}
_CEPH_CONF = ("$CEPH_CONF", "/etc/ceph/ceph.conf", "$HOME/.ceph/ceph.conf", "ceph.conf")
_CEPH_KEYRINGS = ("/etc/ceph/ceph.keyring", "/etc/ceph/keyring", "/etc/ceph/keyring.bin")


@dataclass(frozen=True, slots=True)
class _At:
    """Where a node stands. `key` is its place in the option, `named` that it came from a file name.

    `format` is that of the image in it, None where QEMU looks itself; `stated` as in a Resource.
    """

    option: str
    role: Role
    readonly: bool
    format: str | None = None
    key: str = ""
    named: bool = False
    depth: int = 0
    stated: frozenset[Role] = frozenset()
    shareable: bool = False
    """Other VMs may write it too (`-device …,share-rw=on`)."""

    def source(self, key: str) -> str:
        place = self.key if self.named else f"{self.key}{key}"
        return f"{self.option} {place}=" if place else self.option

    def under(self, key: str, values: Mapping[str, str]) -> _At:
        """Return the place of the child `key` of this node, whose options are `values`."""
        driver = values.get("driver")
        below = replace(self, depth=deep(self.option, self.depth))
        if not self.named:
            below = replace(below, key=f"{self.key}{key}.")
        if key == "backing":
            # a backing layer is opened to be read, and its own format decides (`bdrv_backing_options`)
            return replace(below, role=Role.BACKING, readonly=True, format=None, stated=frozenset(), shareable=False)
        if key == "data-file":
            return replace(below, role=Role.DATA_FILE, format="raw", stated=frozenset())
        if driver is not None and driver not in PROTOCOLS:
            return replace(below, format=driver, stated=_stated(values))
        return below


def _stated(values: Mapping[str, str]) -> frozenset[Role]:
    """Return the layers that a node's options give in the place of its header's (`block.c`, `bdrv_open_backing_file`).

    `backing.driver=` alone or `backing.file.locking=` leave the header's name in force.
    """
    found = set()
    if not {"backing", "backing.filename", "backing.file", "backing.file.filename"}.isdisjoint(values):
        found.add(Role.BACKING)
    if any(key.partition(".")[0] == "data-file" for key in values):
        found.add(Role.DATA_FILE)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Disk:
    """One option that opens a disk, kept until all options were seen."""

    position: int
    option: str
    values: dict[str, str]
    role: Role = Role.DISK
    file: str | None = None


@dataclass
class Blocks:
    """The block options of one command line: collected first, as later options decide about earlier ones."""

    drives: list[_Disk] = field(default_factory=list)
    nodes: list[_Disk] = field(default_factory=list)
    users: dict[str, list[str]] = field(default_factory=dict)
    """The drivers of the devices that use a drive or a node, by its id or name."""
    shareable_nodes: set[str] = field(default_factory=set)
    """The drives and nodes that a device opens with `share-rw=on`: it lets other programs write them."""
    flash: set[str] = field(default_factory=set)
    """Nodes that the machine takes as its firmware (`-machine pflash0=`)."""
    _parents: dict[str, list[_At]] = field(default_factory=dict)

    def disk(self, position: int, option: str | None, filename: str) -> None:
        """Read `-hda FILE`, `-cdrom FILE` and the like, or a disk image without an option (None)."""
        values = {"media": "cdrom"} if option == "cdrom" else {}
        role = Role.FLOPPY if option in {"fda", "fdb"} else Role.DISK
        if option == "pflash":
            role = Role.NVRAM
        self.drives.append(_Disk(position, f"-{option}" if option else "-hda (disk image)", values, role, filename))

    def drive(self, position: int, value: str) -> None:
        """Read `-drive LIST`.

        Raises:
            CommandLineError: the list cannot be read.
        """
        values = dict(pairs("drive", value))
        role = {"pflash": Role.NVRAM, "floppy": Role.FLOPPY}.get(values.get("if", ""), Role.DISK)
        self.drives.append(_Disk(position, "-drive", values, role, values.pop("file", None)))

    def blockdev(self, position: int, value: str) -> None:
        """Read `-blockdev LIST` or `-blockdev JSON`.

        Raises:
            CommandLineError: the list cannot be read.
        """
        self.nodes.append(_Disk(position, "-blockdev", dict(objects("blockdev", value, "driver"))))

    def device(self, driver: str, node: str, *, shares: bool = False) -> None:
        """Note that a device uses a drive, and whether it shares it with other writers."""
        self.users.setdefault(node, []).append(driver)
        if shares:
            self.shareable_nodes.add(node)

    def finish(self, collector: Collector, *, snapshot: bool) -> None:
        """Add every file to `collector`. `snapshot`: the command line has `-snapshot`.

        Raises:
            CommandLineError: a protocol or a key that may name a file is not known.
        """
        for drive in self.drives:
            collector.position = drive.position
            self._drive(collector, drive, snapshot=snapshot)
        # QEMU makes nodes in order and before drives, so that whatever refers to a node comes after it
        for node in reversed(self.nodes):
            collector.position = node.position
            self._node(collector, node)

    def walk(self, collector: Collector, values: dict[str, str], source: str, image: str | None) -> None:
        """Add the files of a backing layer's node, which no option of the command line stands for.

        Raises:
            CommandLineError: as `finish`.
        """
        self._walk(collector, values, _At(source, Role.BACKING, readonly=True, format=image, named=True))

    @property
    def refers(self) -> bool:
        """Tell whether a node was referred to by name."""
        return bool(self._parents)

    def _drive(self, collector: Collector, drive: _Disk, *, snapshot: bool) -> None:
        values = dict(drive.values)
        temporary = truth(values, "snapshot", default=snapshot)
        readonly = truth(values, "readonly", "read-only") or values.get("media") == "cdrom"
        readonly = readonly or (truth(values, "auto-read-only", default=True) and self._only_cds(values.get("id", "")))
        for key in ("readonly", "read-only", "snapshot"):
            values.pop(key, None)
        role = drive.role
        if values.get("media") == "cdrom" or (role is Role.DISK and self._only_cds(values.get("id", ""))):
            role = Role.CDROM
        elif role is Role.DISK and self._only(values.get("id", ""), _FLOPPIES):
            role = Role.FLOPPY
        elif role is Role.NVRAM and readonly:
            role = Role.FIRMWARE
        image = values.pop("format", None) or values.get("driver")
        if image is not None:
            values["driver"] = image
        protocol = image in PROTOCOLS
        stated = "raw" if protocol and image not in FILTERS else None
        at = _At(
            drive.option, role, readonly or temporary, stated, shareable=values.get("id", "") in self.shareable_nodes
        )
        opened = bool(drive.file) or any("." in key or key in {"filename", "dir", "path"} for key in values)
        collector.needs_tmpdir |= temporary and opened
        if not drive.file:
            self._walk(collector, values, at)
            return
        option = drive.option.lstrip("-")
        found = expand(option, drive.file)
        named = replace(at, key="file" if drive.option == "-drive" else "", named=True)
        if protocol or drive.file.startswith("json:"):
            self._walk(collector, {**found, **values}, named)
        else:
            below = {**found, **child(values, "file")}
            self._walk(collector, below, replace(named, format=image, stated=_stated(values)))
            rest = {key: value for key, value in values.items() if not key.startswith("file.")}
            self._walk(collector, rest, at)

    def _only_cds(self, name: str) -> bool:
        return self._only(name, _CD)

    def _only(self, name: str, drivers: frozenset[str]) -> bool:
        users = self.users.get(name, [])
        return bool(users) and all(driver in drivers for driver in users)

    def _node(self, collector: Collector, node: _Disk) -> None:
        name = node.values.get("node-name", "")
        parents = self._parents.get(name, [])
        cds = self._only_cds(name)
        readonly = truth(node.values, "read-only")
        if not readonly and truth(node.values, "auto-read-only"):
            # opened to be read until something writes, and nothing here does
            users = self.users.get(name, [])
            readonly = bool(parents or users) and all(at.readonly for at in parents) and (cds or not users)
        role = parents[0].role if parents else Role.DISK
        if name in self.flash:
            role = Role.NVRAM
        elif cds and role is Role.DISK:
            role = Role.CDROM
        elif role is Role.DISK and self._only(name, _FLOPPIES):
            role = Role.FLOPPY
        if role is Role.NVRAM and readonly:
            role = Role.FIRMWARE
        image = next((at.format for at in parents if at.format is not None), "raw")
        values = {key: value for key, value in node.values.items() if key != "read-only"}
        stated = frozenset.intersection(*(at.stated for at in parents)) if parents else frozenset()
        shareable = name in self.shareable_nodes or any(at.shareable for at in parents)
        self._walk(collector, values, _At(node.option, role, readonly, image, stated=stated, shareable=shareable))

    def _walk(self, collector: Collector, values: dict[str, str], at: _At) -> None:
        """Add the files of one node and of those within it, and note the nodes that it names."""
        driver = values.get("driver")
        at = replace(at, readonly=truth(values, "read-only", default=at.readonly))
        self._files(collector, values, driver, at)
        for key, value in values.items():
            if key in _REFERENCES or key.isdigit():
                if value.startswith("/"):
                    raise CommandLineError(
                        f"{at.source(key)}{value!r}: this is the name of a block node, not a file",
                        hint=f"write {key}.driver=file,{key}.filename=…",
                    )
                if value:  # `backing=` and JSON's null: there is none
                    self._parents.setdefault(value, []).append(at.under(key, values))
            elif "." not in key:
                collector.unknown_path(at.option.lstrip("-"), key, value, _NO_FILES | _read_here(driver))
        for key in ("x-image", "x-raw"):
            if key in values:
                inner = replace(at.under(key, values), format=None)
                self._walk(collector, expand(at.option.lstrip("-"), values[key]), inner)
        for key in children(values):
            below = child(values, key)
            if key == "server":
                _server(collector, below, at)
            else:
                self._walk(collector, below, at.under(key, values))

    def _files(self, collector: Collector, values: dict[str, str], driver: str | None, at: _At) -> None:
        access = Access.READ if at.readonly else Access.READ_WRITE
        if "filename" in values:
            image = at.format if driver is None or driver in _FILES | FILTERS else driver
            source = at.source("filename")
            # QEMU looks into no disk that it reaches by SCSI commands (`block.c`, `find_image_format`)
            form = image or ("raw" if hostpaths.place(values["filename"]) is Place.OWN_DEVICE else PROBED)
            collector.add(
                values["filename"], at.role, access, source, format=form, stated=at.stated, shareable=at.shareable
            )
        if driver in _NAMED_PATHS and "path" in values:
            kind = _NAMED_PATHS[driver]
            if kind is Access.CONNECT:
                collector.add(values["path"], Role.SOCKET, kind, at.source("path"))
            else:
                # a vDPA device is a character device that its own driver shares out
                role = Role.HOST_DEVICE if driver == "virtio-blk-vhost-vdpa" else at.role
                collector.add(values["path"], role, access, at.source("path"), format="raw")
        _of_driver(collector, values, driver, at)


def _of_driver(collector: Collector, values: dict[str, str], driver: str | None, at: _At) -> None:
    """Add what one driver alone opens."""
    if driver == "vvfat" and "dir" in values:
        # `rw` is what QEMU writes back to the folder (`block/vvfat.c`)
        writes = truth(values, "rw") and not at.readonly
        kind = Access.DIRECTORY if writes else Access.READ
        collector.add(values["dir"], Role.SHARE, kind, at.source("dir"))
        collector.needs_tmpdir = True
    if driver == "blkdebug" and "config" in values:
        collector.add(values["config"], Role.CONFIG, Access.READ, at.source("config"))
    if driver == "rbd":
        _ceph(collector, values, at)
    if driver == "nvme" and "device" in values:
        collector.vfio(values["device"], at.source("device"), config=False)
    if driver == "virtio-blk-vfio-pci" and "path" in values:
        collector.vfio(values["path"], at.source("path"))
    if driver == "gluster" and values.get("logfile", "-") != "-":
        collector.add(values["logfile"], Role.LOG, Access.CREATE, at.source("logfile"))


def _ceph(collector: Collector, values: Mapping[str, str], at: _At) -> None:
    """Add what librados reads, in its own places where no name is given (`block/rbd.c`, Ceph's `global.yaml.in`)."""
    for key, role in _CEPH_FILES.items():
        collector.add(values.get(key, ""), role, Access.READ, at.source(key))
    collector.add(values.get("log_file", ""), Role.LOG, Access.CREATE, at.source("log_file"))
    if "conf" not in values:
        first, *others = _CEPH_CONF
        collector.add(first, Role.CONFIG, Access.READ, at.source("conf"), optional=True, otherwise=tuple(others))
    if not {"key", "key_secret", "key-secret", "keyfile", "keyring"} & values.keys():
        name = f"/etc/ceph/ceph.client.{values.get('user', 'admin')}.keyring"
        collector.add(
            "$CEPH_KEYRING", Role.SECRET, Access.READ, at.source("keyring"), optional=True,
            otherwise=(name, *_CEPH_KEYRINGS),
        )  # fmt: skip


def header_files(source: str, values: dict[str, str], image: str | None) -> tuple[Resource, ...]:
    """Return the files of a backing layer that a header gives by these options; `image` is the format it states.

    Raises:
        CommandLineError: the options name another node, or something that is not known.
    """
    collector = Collector()
    blocks = Blocks()
    blocks.walk(collector, values, source, image)
    if blocks.refers:
        raise CommandLineError("it names a block node, and there is none yet when a header is read")
    return collector.resources


def _read_here(driver: str | None) -> frozenset[str]:
    keys = {
        "vvfat": {"dir"},
        "blkdebug": {"config", "x-image"},
        "blkverify": {"x-image", "x-raw"},
        "rbd": {*_CEPH_FILES, "key", "log_file"},
        "gluster": {"logfile"},
        "nvme": {"device"},
    }
    return frozenset(keys.get(driver or "", set()))


def _server(collector: Collector, values: dict[str, str], at: _At) -> None:
    """Read `server.type=unix,server.path=PATH`, or a list of such servers (`server.0.type=…`)."""
    for place, server in ((f"server.{key}.", child(values, key)) for key in children(values)):
        collector.add(server.get("path", ""), Role.SOCKET, Access.CONNECT, at.source(f"{place}path"))
    for key in ("path", "socket"):
        collector.add(values.get(key, ""), Role.SOCKET, Access.CONNECT, at.source(f"server.{key}"))


# ---- file names: a path, `PROTOCOL:…`, a URL or `json:{…}`


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
    if protocol in _FILES:
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
