"""Hosts as small tables: what a plan is made from, without one. The golden plans' `host.json` holds such a table."""

from __future__ import annotations

import json
import os.path
import zlib
from typing import TYPE_CHECKING, Any

from confined_qemu.model.context import Context
from confined_qemu.model.distribution import Family
from confined_qemu.model.facts import (
    DescriptorFacts,
    Facts,
    FileFacts,
    FileKind,
    FolderFacts,
    Holder,
    Identity,
    KvmFacts,
    LiveProcess,
    Mount,
    Occupant,
    SelinuxFacts,
    SelinuxMode,
)
from confined_qemu.model.hardening import HardeningFacts
from confined_qemu.model.helper import PROGRAMS
from confined_qemu.model.landlock import DEVICE, READ, RUN, LandlockFacts, Owned
from confined_qemu.model.lean import dataclass, field, replace
from confined_qemu.model.mcs import Level, Pair
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.plan import helpers
from confined_qemu.read.headers import Layer, names
from tests.fakes import DEBIAN, FEDORA, VIRT_IMAGE, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.model import policy as decisions
    from confined_qemu.model.invocation import Invocation

HERE = "/srv/vm"
"""Where relative paths start."""
USABLE = KvmFacts("svm", 12)
MISSING = KvmFacts(None, None, "the CPU shows neither VT-x (vmx) nor AMD-V (svm)", "enable SVM in the firmware")
CALLER = Context.parse("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023")
LAUNCHER = Context.parse("unconfined_u:unconfined_r:confined_qemu_t:s0")
QEMU_EXEC = Context.parse("system_u:object_r:qemu_exec_t:s0")
FOLDER = Context.parse("system_u:object_r:virt_image_t:s0")
PAIR = Pair(101, 202)
TABLE: list[list[Any]] = [
    ["svirt_t", "virt_image_t", "file", "open read write"],
    ["svirt_tcg_t", "virt_image_t", "file", "open read write"],
    ["confined_qemu_t", "shadow_t", "file", "relabelfrom relabelto"],
    ["confined_qemu_t", "usr_t", "file", "relabelfrom relabelto"],
    ["confined_qemu_t", "etc_t", "dir", "add_name"],
]
"""What every policy of a world denies: source type, target type, class, permissions."""


def _taps(invocation: Invocation) -> list[Resource]:
    """Return what stands for a tap device in sysfs, which is looked at and no file of the VM's."""
    return [Resource(one.path, Role.SOCKET, Access.CONNECT, Sharing.UNLABELLED, "tap") for one in invocation.taps]


@dataclass
class World:
    """A host; the defaults are an enforcing Debian with the policy module, no KVM, and root starting VMs.

    `files` says what is different about a path: any field of FileFacts, of its mount in `mount`; `denied` adds to
    `TABLE`. `entries` says what lies in a shared folder or a TPM's state: names, and a label of their own where it is
    not the folder's.
    """

    selinux: str = "enforcing"
    landlock: int | None = None
    """The ABI of the kernel's Landlock, 0 where it has none; None where nobody asks."""
    capabilities: list[str] = field(default_factory=list)
    sandbox: bool = False
    """Was QEMU built with libseccomp?"""
    overridden: list[str] = field(default_factory=list)
    enters_held: bool = True
    """Does the policy decide who enters a domain with no_new_privs?"""
    policy: str | None = "debian"
    kvm: bool = False
    uid: int = 0
    in_domain: bool = True
    mls: bool = False
    caller: str = str(CALLER)
    pair: str | None = str(PAIR)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    denied: list[list[Any]] = field(default_factory=list)
    booleans: dict[str, bool] = field(default_factory=dict)
    holders: dict[str, list[Any]] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    descriptors: list[dict[str, Any]] = field(default_factory=list)
    occupants: list[list[Any]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    permissive_types: list[str] = field(default_factory=list)
    """Types that the policy does not know."""
    headers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What qemu-img would say about an image, by its path."""

    def followed(self, invocation: Invocation) -> Invocation:
        """Return the invocation with the layers that the headers name."""
        problems: list[str] = []

        def below(layer: Layer) -> Iterator[Resource]:
            yield layer.image
            path = os.path.join(HERE, layer.image.path)
            if layer.image.layered and path in self.headers:
                found = names(json.dumps(self.headers[path]), layer, HERE)
                problems.extend(found.problems)
                for inner in found.layers:
                    yield from below(inner)

        resources = tuple(found for image in invocation.resources for found in below(Layer.top(image)))
        return replace(invocation, resources=resources, problems=tuple(problems))

    entries: dict[str, dict[str, str | None]] = field(default_factory=dict)
    looked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What else looking into a shared folder has shown: any field of FolderFacts; `above` is paths."""
    programs: bool = True
    """Are swtpm and virtiofsd installed?"""

    def facts(self, invocation: Invocation) -> Facts:
        """Return what this host says about an invocation."""
        mode = SelinuxMode(self.selinux)
        if mode is SelinuxMode.DISABLED:
            selinux = SelinuxFacts(mode)
        else:
            caller = Context.parse(self.caller)
            own = LAUNCHER if self.in_domain and not self.mls else caller
            if self.in_domain and self.mls:
                own = replace(caller, type=LAUNCHER.type)
            live = tuple(LiveProcess(int(pid), Context.parse(text)) for pid, text in self.live.items())
            contexts = FEDORA if self.policy == "fedora" else DEBIAN
            selinux = SelinuxFacts(mode, own, caller, contexts, self.in_domain, live, mls=self.mls)
            selinux = replace(selinux, enters_held=self.enters_held)
        return Facts(
            selinux=selinux,
            kvm=USABLE if self.kvm else MISSING,
            emulator=self._emulator(invocation.emulator),
            elsewhere=self.policy is None,
            files={
                resource.path: self.file(resource)
                for resource in (*invocation.resources, *self._handed(), *_taps(invocation))
            },
            holders={
                _holder_key(path): tuple(
                    Holder(name, pid, exclusive, Context.parse(label) if label else None)
                    for name, pid, exclusive, label in rows
                )
                for path, rows in self.holders.items()
            },
            folders={path: self._folder(path) for path in helpers.folders(invocation)},
            distribution=Family.DEBIAN,
            programs={helper.kind: self._program(PROGRAMS[helper.kind].paths[0]) for helper in invocation.helpers},
            descriptors=tuple(
                DescriptorFacts(**{**row, "label": Context.parse(row["label"]) if row["label"] else None})
                for row in self.descriptors
            ),
            occupants=tuple(Occupant(name, pid, Level.parse(level)) for name, pid, level in self.occupants),
            instance="4711",
            sandbox=self.sandbox,
            landlock=self._landlock(),
            hardening=HardeningFacts(frozenset(self.capabilities), tuple(self.overridden)),
            pair=Pair.parse(self.pair) if self.pair is not None else None,
            uid=self.uid,
            folder=HERE,
        )

    def _landlock(self) -> LandlockFacts | None:
        if self.landlock is None:
            return None
        installation = (
            Owned("/usr/bin/qemu-system-x86_64", RUN, "the emulator"),
            Owned("/usr/lib", READ, "libraries, modules and firmware"),
            Owned("/usr/share", READ, "firmware, keymaps and time zones"),
            Owned("/dev/null", DEVICE, "every process's"),
        )
        return LandlockFacts(self.landlock, installation)

    def _handed(self) -> Iterator[Resource]:
        for row in self.descriptors:
            if row.get("path") is not None:
                yield Resource(row["path"], Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "descriptor")

    def file(self, resource: Resource) -> FileFacts:
        """Return what is at a resource's path: an image, unless the table says another thing."""
        path = os.path.join(HERE, resource.path)
        said = dict(self.files.get(resource.path, {}))
        missing = resource.access in (Access.CREATE, Access.LISTEN)
        said.setdefault("kind", FileKind.MISSING if missing else FileKind.REGULAR)
        values: dict[str, Any] = {"owner": self.uid, "mode": 0o600, "links": 1, **said}
        values["kind"] = FileKind(values["kind"])
        if "mount" in values:
            values["mount"] = Mount(**values["mount"])
        if self.selinux == SelinuxMode.DISABLED or self.policy is None:
            values["label"] = values["default"] = values["folder_label"] = None
        elif values["kind"] is FileKind.MISSING:
            values.setdefault("folder_label", str(FOLDER))
        else:
            values.setdefault("label", str(VIRT_IMAGE))
        for name in ("label", "default", "folder_label"):
            if values.get(name) is not None:
                values[name] = Context.parse(values[name])
        identity = None if values["kind"] is FileKind.MISSING else _identity(values.get("same_as", path))
        values.pop("same_as", None)
        values["devices"] = tuple(Identity.of_device(values["kind"], number) for number in values.get("devices", ()))
        return FileFacts(path, values.pop("real", path), identity=identity, **values)

    def _folder(self, path: str) -> FolderFacts:
        self.files.setdefault(path, {}).setdefault("kind", "dir")
        folder = self.file(Resource(path, Role.SERVED, Access.DIRECTORY, Sharing.UNLABELLED, "folder"))
        entries = []
        for name, label in self.entries.get(path, {}).items():
            said: dict[str, Any] = {"label": label or str(folder.label)} if folder.label is not None else {}
            said |= self.files.get(f"{path}/{name}", {})
            self.files[f"{path}/{name}"] = said
            resource = Resource(f"{path}/{name}", Role.SERVED, Access.READ_WRITE, Sharing.UNLABELLED, "entry")
            entries.append(self.file(resource))
        said = dict(self.looked.get(path, {}))
        for name in ("homes", "counts"):
            said[name] = tuple(said.get(name, ()))
        said["counts"] = said["counts"] or (1,) * len(entries)
        said["above"] = tuple(_identity(above) for above in said.get("above", ()))
        return FolderFacts(folder, tuple(entries), **said)

    def _program(self, path: str) -> FileFacts:
        if not self.programs:
            return FileFacts(path, path, FileKind.MISSING)
        label = Context.parse("system_u:object_r:bin_t:s0") if self.selinux != SelinuxMode.DISABLED else None
        return FileFacts(path, path, FileKind.REGULAR, _identity(path), label=label)

    def _emulator(self, name: str) -> FileFacts:
        path = name if "/" in name else f"/usr/bin/{name}"
        said = self.files.get(name, {})
        label = Context.parse(said["label"]) if "label" in said else QEMU_EXEC
        return FileFacts(path, path, FileKind.REGULAR, _identity(path), label=label)

    def rules(self) -> decisions.Policy:
        """Return the policy: a plan with `--policy-root`, `policy` None, asks none."""
        if self.policy is None or self.selinux == SelinuxMode.DISABLED:
            return NO_POLICY
        table = {(s, t, c): frozenset(permissions.split()) for s, t, c, permissions in (*TABLE, *self.denied)}
        return Policy(
            table,
            mls=self.mls,
            booleans=self.booleans,
            made={"hugetlbfs_t": DEBIAN.image},
            strange=frozenset(self.strange),
            permissive=frozenset(self.permissive_types),
        )


def _holder_key(path: str) -> Identity:
    """Return what a holder holds: a file, or (`block:N`) a block device under whatever name."""
    kind, colon, number = path.partition(":")
    if colon and kind == "block":
        return Identity.of_device(FileKind.BLOCK, int(number))
    return _identity(os.path.join(HERE, path))


def _identity(path: str) -> Identity:
    return Identity(1, zlib.crc32(os.fsencode(path)))
