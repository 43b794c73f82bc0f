"""From what a person or a program typed to an Invocation: a spec or a libvirt domain, or QEMU's own command line."""

from __future__ import annotations

import errno
import os

from confined_qemu.model.errors import HINT, HostError, SpecError, UsageError, message, printable, shell_word, why
from confined_qemu.model.invocation import Confinement, Hypervisor, Invocation
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.resource import PROBED, Access, Role
from confined_qemu.read.settings import Settings, UnknownOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confined_qemu.model.resource import Resource
    from confined_qemu.model.xen import XenDomain
    from confined_qemu.read.libvirt.domain import Imported
    from confined_qemu.read.spec.vm import VM
    from confined_qemu.read.spec.xenvm import XenVM

_LARGEST_SPEC = 1 << 20
"""Bytes; a VM description is a page of text."""


def wanted(
    path: str,
    extra: Sequence[str] = (),
    *,
    name: str | None = None,
    confinement: str | None = None,
    unknown: str | None = None,
) -> Invocation | XenDomain:
    """Read a spec as `from_spec` does, or one of a Xen domain (`hypervisor: xen`).

    Raises:
        UsageError: QEMU's words for a domain, or a confinement that it cannot have.
        HostError, SpecError, CommandLineError: as `from_spec`.
    """
    vm, remarks = _vm(path)
    if vm.hypervisor is Hypervisor.XEN:
        return _domain(vm, path, extra, (name, confinement))
    return _invocation(vm, path, extra, remarks, (name, confinement, unknown))


def _domain(vm: XenVM, path: str, extra: Sequence[str], chosen: tuple[str | None, str | None]) -> XenDomain:
    from confined_qemu.read.spec.xenvm import XenConfinement

    name, confinement = chosen
    if extra:
        what = "a Xen domain has no QEMU that would take arguments"
        raise UsageError(what, where=path, hint="leave out what follows --")
    if confinement is not None and confinement not in set(XenConfinement):
        what = f"Xen labels every domain, so there is no confinement: {confinement}"
        raise UsageError(what, where=path, hint="leave it out")
    vm = replace(vm, name=name if name is not None else vm.name)
    if confinement is not None:
        vm = replace(vm, confinement=XenConfinement(confinement))
    return vm.domain(os.path.dirname(os.path.abspath(path)))


def from_spec(
    path: str,
    extra: Sequence[str] = (),
    *,
    name: str | None = None,
    confinement: str | None = None,
    unknown: str | None = None,
) -> Invocation:
    """Read the spec, or the libvirt domain's XML, at `path`; `extra` are QEMU arguments that follow its own.

    What of a domain cannot be carried over is in the invocation's `remarks`. `unknown` is what becomes of options of
    QEMU that are not known, None for what is usual.

    Raises:
        HostError: the file cannot be read.
        SpecError: it is no valid spec; every problem with its place.
        CommandLineError: `qemu_args` or `extra` cannot be read.
    """
    found = wanted(path, extra, name=name, confinement=confinement, unknown=unknown)
    if not isinstance(found, Invocation):
        raise SpecError((f"{path}: a domain of Xen's is none of QEMU's VMs",))
    return found


def _invocation(
    vm: VM,
    path: str,
    extra: Sequence[str],
    remarks: tuple[str, ...],
    chosen: tuple[str | None, str | None, str | None],
) -> Invocation:
    from confined_qemu.read.spec import render

    name, confinement, unknown = chosen
    folder = os.path.dirname(os.path.abspath(path))
    options = UnknownOptions(unknown or UnknownOptions.REFUSE)
    read = render.invocation(vm, folder, extra, config=_config, unknown=options)
    if remarks:
        read = replace(read, remarks=(*remarks, *read.remarks))
    return _chosen(read, name, confinement)


def _vm(path: str) -> tuple[VM | XenVM, tuple[str, ...]]:
    text = _text(path)
    if text.removeprefix("\ufeff").lstrip()[:1] == "<":  # no YAML mapping begins so
        imported = domain(text, path)
        return imported.vm, remarks_of(imported, path)
    from confined_qemu.read.spec import loader

    return loader.load(text, path), ()


def domain(text: str, path: str) -> Imported:
    """Read a libvirt domain's XML.

    Raises:
        HostError: the host's firmware descriptors cannot be read.
        SpecError: it is none, or one that cannot be carried over; every problem with its place.
    """
    from confined_qemu.read.libvirt import domain as domainxml

    return domainxml.parse(text, path, _descriptors(text))


def _descriptors(text: str) -> tuple[str, ...]:
    """Return the host's firmware descriptors where a domain may need them."""
    if "firmware=" not in text and "pflash" not in text:
        return ()
    from confined_qemu.host import firmware

    return firmware.descriptors()


def remarks_of(imported: Imported, path: str) -> tuple[str, ...]:
    """Return a message for each thing of a domain that was lost."""
    from confined_qemu.read.libvirt.carrying import lines_of

    path = printable(path)
    return tuple(message(f"{path}: not carried over: {line}") for line in lines_of(imported.lost))


def spec_of(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the YAML spec of the libvirt domain at `path` (`-`: standard input), and a line for each loss.

    Raises:
        HostError: the file cannot be read.
        SpecError: it is no domain that can be carried over.
    """
    from confined_qemu.read.libvirt.carrying import lines_of
    from confined_qemu.read.spec import writer

    imported = domain(_text(path), path)
    lost = [line for told in lines_of(imported.lost) for line in message(f"- {told}").splitlines()]
    tail = ("Not carried over from the domain:", *lost) if lost else ()
    head = (f"From libvirt's domain {imported.vm.name}, by `confined-qemu import`.",)
    return writer.write(imported.vm, head=head, comments=imported.origins, tail=tail), remarks_of(imported, path)


def from_arguments(
    emulator: str,
    arguments: Sequence[str],
    *,
    name: str | None = None,
    confinement: str | None = None,
    settings: Settings | None = None,
) -> Invocation:
    """Read a raw QEMU command line; `confinement` is stronger than that of the settings.

    Raises:
        CommandLineError: it names a host file in a way that cannot be followed.
        HostError: a configuration file that it names cannot be read.
    """
    from confined_qemu.read.qemu import reader

    settings = settings or Settings()
    invocation = reader.read(emulator, arguments, name=name, config=_config, unknown=settings.unknown_options)
    if not invocation.query:
        resources = (*invocation.resources, *_extra(settings))
        invocation = replace(
            invocation,
            resources=resources,
            require_domain=settings.require_domain,
            harden=settings.harden,
            landlock=settings.landlock,
        )
    if settings.label_trees:
        invocation = _with_trees(invocation, settings.label_trees)
    return _chosen(invocation, name, confinement or settings.confinement)


def _extra(settings: Settings) -> list[Resource]:
    """Return the files that a raw command line's VM will be told to open while it runs."""
    from confined_qemu.model import hostpaths

    wanted = [(path, Access.READ_WRITE, "extra_paths") for path in settings.extra_paths]
    wanted += [(path, Access.READ, "extra_readonly") for path in settings.extra_readonly]
    found = (hostpaths.resource(path, Role.EXTRA, access, key, format=PROBED) for path, access, key in wanted)
    return [resource for resource in found if resource is not None]


def _config(path: str) -> str | None:
    """Return the text of QEMU's configuration file, None where there is none.

    Raises:
        HostError: it cannot be read, or could not be read twice, by the launcher and by QEMU.
    """
    import stat

    from confined_qemu.read.qemu import configs

    hint = f"see: ls -lZ {shell_word(path)}"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise HostError("not a regular file: the launcher would read it away from QEMU", where=path, hint=hint)
            data = file.read(configs.LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"QEMU's configuration cannot be read: {why(error)}", where=path, hint=hint) from error
    if len(data) > configs.LARGEST:
        raise HostError(f"larger than {configs.LARGEST} bytes", where=path, hint="is it a configuration of QEMU's?")
    return data.decode("utf-8", "surrogateescape")


def _with_trees(invocation: Invocation, trees: Sequence[str]) -> Invocation:
    """Return the invocation with its shares marked that lie in one of `trees`: they may be labelled."""
    roots = [os.path.realpath(tree) for tree in trees]

    def marked(resource: Resource) -> Resource:
        real = os.path.realpath(resource.path)
        wanted = any(real == tree or real.startswith(f"{tree.rstrip('/')}/") for tree in roots)
        return replace(resource, label_tree=True) if wanted and resource.role is Role.SHARE else resource

    return replace(invocation, resources=tuple(marked(resource) for resource in invocation.resources))


def _chosen(invocation: Invocation, name: str | None, confinement: str | None) -> Invocation:
    if invocation.window is not None:
        from confined_qemu.host import searched

        invocation = searched.with_window(invocation)
    if any(resource.otherwise or _is_data_folder(resource) for resource in invocation.resources):
        from confined_qemu.host import searched

        invocation = searched.found(invocation)
    if name is not None:
        invocation = replace(invocation, name=name)
    if confinement is not None:
        invocation = replace(invocation, confinement=Confinement(confinement))
    return invocation


def _is_data_folder(resource: Resource) -> bool:
    return resource.role is Role.FIRMWARE and resource.access is Access.DIRECTORY


def _text(path: str) -> str:
    try:
        # standard input's descriptor stays open: it may be the VM's
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(_LARGEST_SPEC + 1)
    except OSError as error:
        hint = (
            f"see: ls -lZ {shell_word(path)}" if error.errno == errno.EACCES else None
        )  # owner, mode, or a label like shadow_t
        raise HostError(f"the spec cannot be read: {why(error)}", where=path, hint=hint) from error
    if len(data) > _LARGEST_SPEC:
        raise SpecError((f"{path}:1:1: larger than {_LARGEST_SPEC} bytes{HINT}is it a VM description?",))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise SpecError((f"{path}:{line}:{column}: not UTF-8 text{HINT}save the file as UTF-8",)) from error
