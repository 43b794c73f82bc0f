"""Denials about files that no rule of levels, secrets or booleans decides: mislabelled, or not the VM's own. Pure."""

from __future__ import annotations

from confined_qemu.denials.verdict import FILES, Case, Explanation, Verdict, adopted, quoted
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.plan import places

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANGES = frozenset(
    "write append create unlink link rename setattr add_name remove_name reparent rmdir".split()  # noqa: SIM905
)
_RUNS = frozenset({"execute", "execute_no_trans", "entrypoint", "execmod"})
_DECLARE = "name it beforehand: extra_files: in the spec, or CONFINED_QEMU_EXTRA_PATHS"
_SYSTEM = frozenset(
    """
    etc_t etc_runtime_t usr_t bin_t sbin_t lib_t ld_so_t boot_t root_t locale_t net_conf_t kernel_t modules_object_t
    system_conf_t init_exec_t qemu_exec_t
    """.split()  # noqa: SIM905 - a table
)


def _relabelled(case: Case) -> Explanation | None:
    """Judge the VM's own file with another label than the one it got: somebody ran restorecon or chcon."""
    if case.given is None or case.path is None or case.given.endswith(_label(case)):
        return None
    return Explanation(
        Verdict.MEND,
        "it is the VM's own file, and its label was changed while the VM ran",
        command=f"chcon {case.given} {quoted(case.path)}",
    )


def _label(case: Case) -> str:
    target = case.denial.target
    return f":{target.type}" if target.range is None else f":{target.type}:{target.range}"


def _unlabelled(case: Case) -> Explanation | None:
    if case.denial.kind not in FILES or case.denial.target.type not in ("unlabeled_t", "file_t", "device_t"):
        return None
    what = "it has no label that this policy knows"
    if case.denial.target.type == "device_t":
        what = "the device has no label of its own"
    command = f"restorecon -Fv {quoted(case.path)}" if case.path is not None else None
    return Explanation(Verdict.MEND, what, command=command, advice=None if command else "run restorecon -F on it")


def _runs(case: Case) -> Explanation | None:
    if case.denial.kind not in FILES or not case.asks(_RUNS):
        return None
    return Explanation(Verdict.KEEP, "a VM runs QEMU and no other program")


def _content(case: Case) -> Explanation | None:
    if case.denial.target.type != "virt_content_t" or not case.asks(_CHANGES):
        return None
    return Explanation(
        Verdict.KEEP, "every VM may read it, so none may write it", advice="a disk to be written says readonly: no"
    )


def _makes_files(case: Case) -> Explanation | None:
    if case.denial.kind not in FILES or not case.asks(_CHANGES):
        return None
    if case.denial.target.type in _SYSTEM:
        return Explanation(Verdict.KEEP, "it is the system's")
    if case.denial.kind == "dir" or case.asks(frozenset({"create"})):
        return Explanation(
            Verdict.MEND,
            "a VM makes files in its own folders only",
            advice="name the file in the spec or on the command line: it is then made for the VM beforehand"
            + _or(case.allowing("PATH")),
        )
    return None


def _passes(case: Case) -> Explanation | None:
    if case.denial.kind != "dir" or case.denial.target.type in _SYSTEM:
        return None
    return Explanation(
        Verdict.MEND,
        f"the way to the VM's file leads through a folder ({case.denial.target.type}) that is not a VM's to see",
        advice="move the file to a folder for images, such as /var/lib/libvirt/images",
    )


def _device(case: Case) -> Explanation | None:
    if case.denial.kind not in ("chr_file", "blk_file"):
        return None
    return Explanation(
        Verdict.MEND,
        "it is a device that this VM was not given",
        advice="name it in the spec or on the command line: it then gets the VM's label",
        command=case.allow if case.denial.kind == "blk_file" else None,
    )


def _not_its_own(case: Case) -> Explanation | None:
    """Judge a file that the VM was not started with: opened later, over QMP, or by whoever broke out of the guest."""
    if case.denial.kind not in FILES or case.denial.target.type in _SYSTEM:
        return None
    why = "it is none of the files that the VM was started with"
    if case.default is not None and case.default.type != case.denial.target.type and case.path is not None:
        return Explanation(
            Verdict.MEND,
            f"{why}, and its label is not the one of its place ({case.default.type})",
            advice=_DECLARE,
            command=f"restorecon -Fv {quoted(case.path)}" + (f" && {case.allow}" if case.allow is not None else ""),
        )
    if case.denial.target.type in places.GENERIC and case.path is not None:
        return adopted(case.path, case.denial.target.type, f"{why}, and {case.denial.target.type} is no type of images")
    later = _or(case.allowing("PATH")) if case.allow is None else ""
    return Explanation(Verdict.MEND, why, advice=f"{_DECLARE}{later}", command=case.allow)


def _or(command: str | None) -> str:
    return f"; or, for the VM that runs: {command}" if command is not None else ""


RULES: tuple[Callable[[Case], Explanation | None], ...] = (
    _relabelled, _unlabelled, _runs, _content, _makes_files, _passes, _device,
    _not_its_own,
)  # fmt: skip
"""In their order: the first that knows the case decides."""
