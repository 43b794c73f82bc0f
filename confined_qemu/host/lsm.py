"""The only door to SELinux: thin functions that raise with operation, object and cause, and never guess.

It stands on `selinuxfs`, which is its light half: the kernel's files and labels, without libselinux. Whether SELinux is
on comes from there, as PyPI's `selinux` is a shim that on Debian answers "disabled" without looking. Everything else is
libselinux's, in its raw forms (no mcstrans). `attr/exec`, `attr/fscreate` and `attr/sockcreate` belong to a thread: the
launcher has one.
"""

from __future__ import annotations

import os
import stat

from confined_qemu.host import selinuxfs
from confined_qemu.model import policynames
from confined_qemu.model.errors import LsmError, ValueProblem, printable, why
from confined_qemu.model.facts import Boolean, SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from confined_qemu.model.answers import Answer
    from confined_qemu.model.context import Context, PolicyContexts

    WhyDenied = Callable[[Context, Context, str, Iterable[str]], Answer]


_PERMISSIVE = 1
"""SELINUX_AVD_FLAGS_PERMISSIVE of selinux/selinux.h."""


def _binding() -> Any:
    """Return libselinux, by ctypes: its Python binding takes as long to load as Python and shutil together.

    Raises:
        LsmError: it is missing.
    """
    from confined_qemu.host import libselinux

    try:
        return libselinux.load()
    except OSError as error:
        raise LsmError(f"libselinux cannot be loaded: {error}", hint=f"run: {_install()}") from error


def _install() -> str:
    from confined_qemu.host import packages
    from confined_qemu.model.distribution import Package

    return packages.command(Package.SELINUX)


def _read(path: str, operation: str) -> str:
    try:
        return selinuxfs.text(path)
    except OSError as error:
        raise LsmError(f"{operation} failed: {why(error)}", where=path) from error


def _parsed(text: str) -> Context:
    from confined_qemu.model.context import Context

    return Context.parse(text)


def mode() -> SelinuxMode:
    """Return whether SELinux is disabled, permissive or enforcing.

    Raises:
        LsmError: the kernel has SELinux and its state cannot be read, or no policy is loaded.
    """
    root = selinuxfs.ROOT
    try:
        if not selinuxfs.is_known():
            return SelinuxMode.DISABLED
        mounted = os.path.exists(f"{root}/enforce")
        genuine = mounted and selinuxfs.is_genuine()
    except OSError as error:
        raise LsmError(f"whether SELinux is on cannot be read: {why(error)}", where=error.filename) from error
    if not mounted:
        raise LsmError("the kernel has SELinux, and selinuxfs is not mounted", hint=f"mount it at {root}")
    if not genuine:
        raise LsmError(
            "another file system is mounted in the place of selinuxfs", where=root, hint=f"run: umount {root}"
        )
    if not os.path.exists(f"{root}/class/process"):
        raise LsmError(
            "SELinux is on and no policy is loaded",
            hint="install a policy, for example selinux-policy-default",
        )
    return SelinuxMode.ENFORCING if _read(f"{root}/enforce", "reading the mode") == "1" else SelinuxMode.PERMISSIVE


def enters_held() -> bool:
    """Tell whether the policy decides who enters a domain with no_new_privs; where it does not, nobody does.

    Raises:
        LsmError: the kernel says, and it cannot be read.
    """
    path = f"{selinuxfs.ROOT}/policy_capabilities/nnp_nosuid_transition"
    return os.path.exists(path) and _read(path, "reading a policy capability") == "1"


def device() -> int:
    """Return selinuxfs' device number: a descriptor on it that is a null device was swapped at exec."""
    return os.stat(selinuxfs.ROOT).st_dev


def own_context() -> Context:
    """Return the context this process runs in."""
    return _parsed(_read(selinuxfs.attribute("current"), "reading the own context"))


def previous_context() -> Context:
    """Return the context of the program that executed this one: the caller's, with the caller's range."""
    return _parsed(_read(selinuxfs.attribute("prev"), "reading the caller's context"))


def process_context(pid: int) -> Context | None:
    """Return the context of process `pid`; None where it is gone or may not be seen."""
    try:
        return _parsed(selinuxfs.process_label(pid))
    except (OSError, ValueProblem):
        return None


def process_with_categories(pid: int) -> Context | None:
    """Return the context of process `pid` if its low level has categories; None as well where it cannot be seen.

    Of all processes few have any, and each launch looks at all: their contexts are not taken apart.
    """
    try:
        text = selinuxfs.process_label(pid)
        low = text.split(":", 3)[-1].partition("-")[0]
        return _parsed(text) if ":" in low else None
    except (OSError, ValueProblem):
        return None


def context_of(path: str | int, *, follow: bool = True) -> Context | None:
    """Return the label of `path` (links are followed unless told) or of an open descriptor, sockets and pipes included.

    Returns None where the file system keeps no labels.

    Raises:
        LsmError: the label cannot be read.
    """
    try:
        text = selinuxfs.label(path, follow=follow)
    except OSError as error:
        import errno

        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return None
        raise LsmError(f"the label cannot be read: {why(error)}", where=str(path)) from error
    return _parsed(text)


def set_context(path: str, context: Context, *, shown: str) -> None:
    """Label the file that `path` names (`/proc/self/fd/N`) and read it back; `shown` is its name for a message.

    Raises:
        LsmError: the kernel refuses, or another label is there afterwards.
    """
    try:
        selinuxfs.set_label(path, str(context))  # the watcher runs without the binding
    except OSError as error:
        raise LsmError(f"cannot be labelled {context}: {why(error)}", where=shown) from error
    stored = context_of(path)
    if stored != context:
        raise LsmError(f"reads back as {stored} after it was labelled {context}", where=shown)


def set_exec_context(context: Context | None) -> None:
    """Choose the context of the next exec, and read it back.

    Raises:
        LsmError: the context is not valid in this policy, or the choice did not stick.
    """
    _choose("exec", _binding().setexeccon_raw, context)


@contextmanager
def creating(context: Context | None) -> Iterator[None]:
    """Give files made inside the block this label; None leaves it to the policy."""
    if context is None:
        yield
        return
    binding = _binding()
    _choose("fscreate", binding.setfscreatecon_raw, context)
    try:
        yield
    finally:
        _choose("fscreate", binding.setfscreatecon_raw, None)


@contextmanager
def creating_sockets(context: Context | None) -> Iterator[None]:
    """Give sockets made inside the block this label; None leaves it to the policy."""
    if context is None:
        yield
        return
    binding = _binding()
    _choose("sockcreate", binding.setsockcreatecon_raw, context)
    try:
        yield
    finally:
        _choose("sockcreate", binding.setsockcreatecon_raw, None)


def _choose(name: str, setter: Any, context: Context | None) -> None:
    try:
        setter(None if context is None else str(context))
    except OSError as error:
        raise LsmError(f"setting attr/{name} to {context} failed: {why(error)}") from error
    stored = _read(selinuxfs.attribute(name), f"reading attr/{name} back")
    if stored != (str(context) if context is not None else ""):
        raise LsmError(f"attr/{name} reads back as {stored!r} instead of {context}")


def is_valid(context: Context) -> bool:
    """Tell whether `context` is valid in the loaded policy.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    try:
        _binding().security_check_context_raw(str(context))
    except OSError as error:
        import errno

        if error.errno == errno.EINVAL:
            return False
        raise LsmError(f"whether the policy knows the context {context} cannot be asked: {why(error)}") from error
    return True


def is_permissive(context: Context) -> bool:
    """Tell whether the type of `context` is permissive (semanage permissive): its denials are logged, and not enforced.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    binding = _binding()
    try:
        decision = binding.av_decision()
        number = binding.string_to_security_class("file")
        binding.security_compute_av_flags_raw(str(context), str(context), number, 0xFFFFFFFF, decision)
    except OSError as error:
        raise LsmError(f"cannot read whether {context.type} is permissive: {why(error)}") from error
    return bool(decision.flags & _PERMISSIVE)


def user_type(role: str) -> str | None:
    """Return the type that a login shell has in `role` (the policy's contexts/default_type), None for other roles.

    Raises:
        LsmError: the file cannot be read.
    """
    text = _read(_binding().selinux_default_type_path(), "reading the policy's default types")
    rows = (line.strip().partition(":") for line in text.splitlines())
    return next((name for found, _, name in rows if found == role), None)


def denied(source: Context, target: Context, kind: str, permissions: Iterable[str]) -> tuple[str, ...]:
    """Return those of `permissions` that the kernel would deny `source` on `target` of class `kind`.

    The kernel's own decision (selinuxfs `access`), constraints and booleans included. A permission that the
    policy does not define is allowed or denied as the policy says about unknown ones.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    denied, _ = _decided(source, target, kind, permissions)
    return denied


def _decided(
    source: Context, target: Context, kind: str, permissions: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the kernel denies, and what of that it would log."""
    binding = _binding()
    number = binding.string_to_security_class(kind)
    if number == 0:
        return (), ()
    try:
        decision = binding.av_decision()
        binding.security_compute_av_raw(str(source), str(target), number, 0xFFFFFFFF, decision)
    except OSError as error:
        raise LsmError(f"what {source} may do to {target} ({kind}) cannot be asked: {why(error)}") from error
    bits = {permission: binding.string_to_av_perm(number, permission) for permission in permissions}
    denied = tuple(permission for permission, bit in bits.items() if bit and not decision.allowed & bit)
    return denied, tuple(permission for permission in denied if decision.auditdeny & bits[permission])


@contextmanager
def policy_opened() -> Iterator[WhyDenied]:
    """Load the kernel's policy into this process and hand out the function that explains a denial by it.

    audit2why(8)'s own code, or the kernel's decisions where this Python has none of it. Loading takes some hundredths
    of a second (0.8 s in the emulated guest, 15 MiB), each answer some thousandths (0.3 s); its state belongs to the
    process, so one at a time.

    Raises:
        LsmError: the policy cannot be read.
    """
    try:
        from selinux import audit2why
    except Exception:  # noqa: BLE001 - PyPI's shim raises a plain one where it finds no binding behind it
        yield _why_by_decisions
        return
    path = f"{selinuxfs.ROOT}/policy"
    try:
        # by name: the policy on disk, which it would take in its place, has other booleans
        audit2why.init(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise LsmError(f"the policy cannot be read: {error}", where=path) from error
    try:
        yield lambda source, target, kind, permissions: _why_denied(audit2why, source, target, kind, permissions)
    finally:
        audit2why.finish()


def _known(source: Context, target: Context, kind: str, permissions: Iterable[str]) -> list[str]:
    """Return the permissions that the policy has; none where it has not all of the rest."""
    number = _binding().string_to_security_class(kind)
    names = [name for name in permissions if number and _binding().string_to_av_perm(number, name)]
    return names if names and is_valid(source) and is_valid(target) else []


def _why_by_decisions(source: Context, target: Context, kind: str, permissions: Iterable[str]) -> Answer:
    """Explain a denial by what the kernel decides: it does not say which rules a boolean has switched off."""
    from confined_qemu.model.answers import Answer, Reason, Setting

    names = _known(source, target, kind, permissions)
    if not names:
        return Answer(Reason.UNKNOWN)
    denied, logged = _decided(source, target, kind, names)
    if not denied:
        return Answer(Reason.ALLOWED)
    alike = replace(target, range=source.range)
    if is_valid(alike) and not _decided(source, alike, kind, denied)[0]:
        return Answer(Reason.CONSTRAINT)
    wanted = policynames.OPENING.get(target.type)
    if wanted is not None and boolean(wanted) is Boolean.OFF:
        return Answer(Reason.BOOLEANS, (Setting(wanted, on=True),))
    return Answer(Reason.NO_RULE_NOW if logged else Reason.SILENT)


def _why_denied(audit2why: Any, source: Context, target: Context, kind: str, permissions: Iterable[str]) -> Answer:
    from confined_qemu.model.answers import Answer, Reason, Setting

    # asked first: libsepol complains on standard error about a name that the policy has not
    names = _known(source, target, kind, permissions)
    if not names:
        return Answer(Reason.UNKNOWN)
    reason, details = audit2why.analyze(str(source), str(target), kind, names)
    meanings = {
        audit2why.ALLOW: Reason.ALLOWED,
        audit2why.DONTAUDIT: Reason.SILENT,
        audit2why.TERULE: Reason.TYPES,
        audit2why.BOOLEAN: Reason.BOOLEANS,
        audit2why.CONSTRAINT: Reason.CONSTRAINT,
        audit2why.RBAC: Reason.ROLES,
        audit2why.BOUNDS: Reason.BOUNDS,
    }
    answer = meanings.get(reason, Reason.UNKNOWN)
    if answer is not Reason.BOOLEANS:
        return Answer(answer)
    return Answer(answer, tuple(Setting(str(name), bool(value)) for name, value in details))


def created(source: Context, folder: Context, kind: str) -> Context:
    """Return the label that a new object of class `kind` gets when `source` makes it in `folder`.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    binding = _binding()
    number = binding.string_to_security_class(kind)
    try:
        result = binding.security_compute_create_raw(str(source), str(folder), number)
    except OSError as error:
        raise LsmError(f"which label a new {kind} in {folder} gets cannot be asked: {why(error)}") from error
    return _parsed(result[1])


def boolean(name: str) -> Boolean:
    """Return the state of one of the policy's booleans, from selinuxfs (`CURRENT PENDING`; current is what counts).

    Raises:
        LsmError: it is there and cannot be read.
    """
    path = f"{selinuxfs.ROOT}/booleans/{name}"
    if not os.path.lexists(path):
        return Boolean.ABSENT
    return Boolean.ON if _read(path, "reading a boolean").startswith("1") else Boolean.OFF


def default_label(path: str, mode_bits: int) -> Context | None:
    """Return the policy's label for `path` (file_contexts), None where it has none."""
    try:
        result = _binding().matchpathcon(path, stat.S_IFMT(mode_bits))
    except OSError:
        return None
    text = result[1]
    return None if text == "<<none>>" else _parsed(text)


def forget_file_contexts() -> None:
    """Have `default_label` read the policy's file contexts anew: semanage has changed them."""
    _binding().matchpathcon_fini()


def customizable_types() -> frozenset[str]:
    """Return the types that a relabelling by the policy leaves as somebody set them (contexts/customizable_types).

    Raises:
        LsmError: the file is there and cannot be read.
    """
    path = os.path.join(os.path.dirname(_binding().selinux_virtual_domain_context_path()), "customizable_types")
    return (
        frozenset(_read(path, "reading the policy's customizable types").split())
        if os.path.exists(path)
        else frozenset()
    )


def local_file_contexts() -> tuple[str, ...]:
    """Return the lines that `semanage fcontext` wrote: a regular expression, a kind of file or none, a context.

    Raises:
        LsmError: the file is there and cannot be read.
    """
    path = _binding().selinux_file_context_local_path()
    return tuple(_read(path, "reading the local file contexts").split("\n")) if os.path.exists(path) else ()


def policy_contexts(folder: str | None = None) -> PolicyContexts:
    """Read the policy's contexts for VMs; from `folder`/contexts instead of the loaded policy's when it is given.

    Raises:
        LsmError: a file is missing, or holds no contexts.
    """
    from confined_qemu.model.context import PolicyContexts

    if folder is None:
        binding = _binding()
        domain_path = binding.selinux_virtual_domain_context_path()
        image_path = binding.selinux_virtual_image_context_path()
    else:
        domain_path = os.path.join(folder, "contexts/virtual_domain_context")
        image_path = os.path.join(folder, "contexts/virtual_image_context")
    domain = _read(domain_path, "reading the policy's contexts for VMs")
    image = _read(image_path, "reading the policy's contexts for images")
    try:
        return PolicyContexts.parse(domain, image)
    except ValueProblem as error:
        raise LsmError(str(error), where=printable(os.path.dirname(domain_path))) from error
