"""A denial and the policy's own answer to one line: what mends it, or why it must stay denied. Pure.

Rules in an order, the first that knows the case decides. What the project knows about VMs comes before what the
policy says about types: a boolean or a rule could open to a VM what is another VM's. No rule proposes a wider policy.
"""

from __future__ import annotations

from confined_qemu.denials import filerules
from confined_qemu.denials.verdict import FILES, Case, Explanation, Verdict, adopted, quoted
from confined_qemu.model import policynames
from confined_qemu.model.answers import Reason, Setting
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.plan import places

if TYPE_CHECKING:
    from collections.abc import Callable

# ---- what the classes, types and permissions are

_SOCKETS = frozenset({"unix_stream_socket", "unix_dgram_socket"})
_RELABELS = frozenset({"relabelfrom", "relabelto"})
_ENTRY = frozenset({"noatsecure", "siginh", "rlimitinh"})
_CODE = frozenset({"execmem", "execheap", "execstack"})
_SECRETS = frozenset(
    """
    shadow_t shadow_lock_t passwd_file_t sshd_key_t ssh_home_t gpg_secret_t krb5_keytab_t auditd_log_t auditd_etc_t
    security_t policy_config_t selinux_config_t semanage_store_t memory_device_t kmsg_device_t proc_kcore_t
    """.split()  # noqa: SIM905 - a table
)
"""What whoever reads or writes it has the host."""
_CAPABILITIES = {
    "dac_override": (Verdict.MEND, "the file's owner and mode exclude root's VM, which has no such capability"),
    "dac_read_search": (
        Verdict.MEND,
        "the file's owner and mode exclude root's VM, which has no such capability",
    ),
    "net_admin": (Verdict.KEEP, "a VM with it could change the host's network"),
    "setuid": (Verdict.KEEP, "a VM may not change its user"),
    "setgid": (Verdict.KEEP, "a VM may not change its user"),
    "chown": (Verdict.KEEP, "a VM may not change the owner of files"),
    "fowner": (Verdict.KEEP, "a VM may not change the owner of files"),
    "sys_chroot": (Verdict.KEEP, "-chroot is not needed: SELinux already confines what the VM opens"),
    "ipc_lock": (Verdict.KEEP, "a VM may not lock the host's memory"),
    "sys_admin": (Verdict.KEEP, "CAP_SYS_ADMIN is most of what root may do"),
    "sys_ptrace": (Verdict.KEEP, "a VM with it could read and change every process of the host"),
    "sys_module": (Verdict.KEEP, "a VM with it could load kernel modules"),
    "sys_rawio": (Verdict.KEEP, "a VM with it could read and write the host's memory and disks"),
    "mknod": (Verdict.KEEP, "a VM with it could make device nodes of the host"),
}
_CAPABILITY_ADVICE = {
    "dac_override": "let the owner run it: user: OWNER in the spec",
    "dac_read_search": "let the owner run it: user: OWNER in the spec",
    "net_admin": "create the tap device first (ip tuntap add tap0 mode tap), and name it: "
    "network: {type: tap, ifname: tap0}",
    "setuid": "instead of -runas, write user: NAME in the spec",
    "setgid": "instead of -runas, write user: NAME in the spec",
    "ipc_lock": "leave out mem-lock=on",
}


def explain(case: Case) -> Explanation:
    """Return the explanation of one denial."""
    for rule in _RULES:
        found = rule(case)
        if found is not None:
            return found
    return _no_rule(case)


# ---- the rules, in their order


def _allowed_now(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.ALLOWED:
        return None
    return Explanation(Verdict.MENDED, "the policy allows it now")


def _changed_policy(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.UNKNOWN:
        return None
    return Explanation(Verdict.HARMLESS, "the loaded policy no longer has one of these types")


def _looks_around(case: Case) -> Explanation | None:
    """Judge what QEMU, its libraries and the launcher look at and do without; the module keeps it out of the log."""
    denial, looks = case.denial, {"getattr", "search", "read", "open", "ioctl"}.issuperset(case.denial.permissions)
    if looks and denial.device == "proc" and denial.kind in ("dir", "file") and denial.source != denial.target:
        who = (
            "the launcher looks for holders of a category pair" if case.by_launcher else "QEMU looks up who signals it"
        )
        return Explanation(Verdict.HARMLESS, f"{who}, and does without the answer")
    if case.by_launcher and denial.permissions == ("ioctl",):
        return Explanation(Verdict.HARMLESS, "Python asks whether each file is a terminal, and does without the answer")
    if denial.kind == "process" and _ENTRY.issuperset(denial.permissions):
        return Explanation(Verdict.HARMLESS, "environment and signals are not inherited across this domain transition")
    if looks and denial.kind == "file" and denial.target.type == "sysfs_t" and denial.name in ("meminfo", "possible"):
        return Explanation(Verdict.HARMLESS, "a library looks for memory nodes, and does without the answer")
    return None


def _launcher(case: Case) -> Explanation | None:
    """Judge the project's own domain: what it lacks it does not need, but for images in unusual places."""
    if not case.by_launcher:
        return None
    target = case.denial.target.type
    if case.denial.kind == "file" and target in places.GENERIC and case.path is not None:
        return adopted(case.path, target, f"the launcher may only relabel images, and {target} is not an image type")
    if case.answer.reason is Reason.SILENT:
        return _silent(case)
    if case.asks(_RELABELS):
        return Explanation(
            Verdict.KEEP,
            f"the launcher may only relabel images, and {target} is not an image type",
            advice="copy the image to a folder for images, such as /var/lib/libvirt/images",
        )
    return Explanation(Verdict.KEEP, "the launcher does not need this")


def _other_vm(case: Case) -> Explanation | None:
    """Judge what carries categories that the VM has not: it is another VM's, whatever its type."""
    source, target = case.denial.source.range, case.denial.target.range
    if source is None or target is None or target.low.categories <= source.high.categories:
        return None
    what = "process" if case.denial.kind == "process" else "socket" if case.denial.kind in _SOCKETS else "file"
    if case.owner is not None:
        shared = "to share a disk, write shareable: yes in the spec of each VM" if case.denial.kind == "file" else None
        return Explanation(Verdict.KEEP, f"it is a {what} of the VM {case.owner}", advice=shared)
    advice = None
    if what == "file":
        advice = "if no running VM has this file, run: confined-qemu recover"
    return Explanation(Verdict.KEEP, f"{target.low} is the level of another VM or container", advice=advice)


def _too_high(case: Case) -> Explanation | None:
    """Judge what is of a level that the VM's does not dominate, without being one VM's."""
    source, target = case.denial.source.range, case.denial.target.range
    if source is None or target is None or source.high.dominates(target.high):
        return None
    if case.denial.kind in _SOCKETS:
        return Explanation(
            Verdict.MEND,
            f"the client that connected has the range {target}, wider than the VM's",
            advice="start the client at the low level: runcon -l s0 COMMAND",
        )
    if case.denial.kind == "fifo_file":
        return Explanation(
            Verdict.MEND,
            f"the pipe has the range {target} of a login shell, wider than the VM's",
            advice="put a program between them, for example: ... | cat",
        )
    return Explanation(
        Verdict.KEEP,
        f"its level {target.high} is above the VM's, {source.high}",
        advice="give the VM this level: seclabel: {type: static, label: ...}",
    )


def _generated_code(case: Case) -> Explanation | None:
    if case.denial.kind != "process" or not case.asks(_CODE):
        return None
    name = next(
        (s.name for s in case.answer.booleans if s.name.startswith(policynames.ABOUT_VMS)), policynames.USE_EXECMEM
    )
    if case.answer.reason is Reason.BOOLEANS or case.denial.source.type == "svirt_t":
        return Explanation(Verdict.MEND, "TCG generates code and runs it", command=policynames.turned_on(name))
    return None


def _io_uring(case: Case) -> Explanation | None:
    if case.denial.kind not in ("anon_inode", "io_uring"):
        return None
    return Explanation(
        Verdict.MEND,
        "QEMU tries io_uring at every start and works without it; only aio=io_uring needs it",
        command=policynames.turned_on(policynames.USE_IO_URING),
    )


def _capability(case: Case) -> Explanation | None:
    if not case.denial.kind.startswith("cap"):
        return None
    for name in case.denial.permissions:
        if name in _CAPABILITIES:
            verdict, why = _CAPABILITIES[name]
            return Explanation(verdict, why, advice=_CAPABILITY_ADVICE.get(name))
    return Explanation(Verdict.KEEP, "a VM has no capabilities over the host")


def _secret(case: Case) -> Explanation | None:
    target = case.denial.target.type
    if target.startswith(policynames.OURS) and case.denial.kind in FILES:
        return Explanation(Verdict.KEEP, "it is confined-qemu's: a VM that writes it could change other VMs' labels")
    if target in _SECRETS:
        return Explanation(Verdict.KEEP, "a VM with access to it controls the host")
    return None


def _other_process(case: Case) -> Explanation | None:
    if case.denial.kind != "process" or case.denial.source == case.denial.target:
        return None
    return Explanation(Verdict.KEEP, "a VM may not touch processes other than its own")


def _boolean(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.BOOLEANS or not case.answer.booleans:
        return None
    wanted = policynames.OPENING.get(case.denial.target.type)
    about_vms = [s for s in case.answer.booleans if s.name.startswith(policynames.ABOUT_VMS)]
    chosen: Setting = next((s for s in about_vms if s.name == wanted), (about_vms or [*case.answer.booleans])[0])
    why = f"a boolean decides about {case.denial.target.type}"
    if not about_vms:
        why += "; it allows more programs than VMs"
    return Explanation(Verdict.MEND, why, command=f"setsebool -P {chosen.name} {'on' if chosen.on else 'off'}")


def _constraint(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.CONSTRAINT:
        return None
    source, path = case.denial.source, case.path
    if case.denial.kind in FILES and source.range is not None:
        return Explanation(
            Verdict.MEND,
            f"its type is allowed, its level is not: to write it, this VM needs it at {source.range}",
            command=f"chcon -l {source.range} {quoted(path)}" if path is not None else None,
        )
    return Explanation(Verdict.KEEP, "its type is allowed; a constraint on levels, roles or users denies it")


def _silent(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.SILENT:
        return None
    return Explanation(Verdict.HARMLESS, "nothing depends on it: the policy usually keeps this out of the log")


def _no_rule(case: Case) -> Explanation:
    """Answer where no rule knows more: the policy has no right for it, and no switch."""
    if case.answer.reason is Reason.ROLES:
        return Explanation(Verdict.MEND, "the role may not have this type", command="confined-qemu policy install")
    if case.answer.reason is Reason.NO_RULE_NOW:
        return Explanation(
            Verdict.KEEP,
            "no enabled rule allows it; whether a boolean would allow it is not known without audit2why",
        )
    return Explanation(Verdict.KEEP, "no rule and no boolean of the policy allows it")


_RULES: tuple[Callable[[Case], Explanation | None], ...] = (
    _allowed_now, _changed_policy, _looks_around, _launcher, _other_vm, _too_high, _generated_code, _io_uring,
    _capability, _secret, _other_process, _boolean, _constraint, _silent, *filerules.RULES,
)  # fmt: skip
