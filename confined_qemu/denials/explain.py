"""A denial and the policy's own answer to one line: what mends it, or why it must stay denied. Pure.

Rules in an order, the first that knows the case decides. What the project knows about VMs comes before what the
policy says about types: a boolean or a rule could open to a VM what is another VM's. No rule proposes a wider policy.
"""

from __future__ import annotations

from confined_qemu.denials import filerules
from confined_qemu.denials.verdict import FILES, Case, Explanation, Verdict, adopted, quoted
from confined_qemu.model import policynames
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.policy import Reason, Setting
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
    "dac_override": (Verdict.MEND, "owner and mode keep root's VM out of it, and a VM has no rights over them"),
    "dac_read_search": (Verdict.MEND, "owner and mode keep root's VM out of it, and a VM has no rights over them"),
    "net_admin": (Verdict.KEEP, "it would change the host's network"),
    "setuid": (Verdict.KEEP, "a VM stays the user that it was started as"),
    "setgid": (Verdict.KEEP, "a VM stays the user that it was started as"),
    "chown": (Verdict.KEEP, "a VM's files stay their owner's"),
    "fowner": (Verdict.KEEP, "a VM's files stay their owner's"),
    "sys_chroot": (Verdict.KEEP, "-chroot adds nothing to what SELinux denies already"),
    "ipc_lock": (Verdict.KEEP, "locked memory would take it from the host"),
    "sys_admin": (Verdict.KEEP, "it is most of root's rights"),
    "sys_ptrace": (Verdict.KEEP, "it would open every process of the host"),
    "sys_module": (Verdict.KEEP, "it would load code into the kernel"),
    "sys_rawio": (Verdict.KEEP, "it would open the host's memory and disks"),
    "mknod": (Verdict.KEEP, "it would make devices of the host"),
}
_CAPABILITY_ADVICE = {
    "dac_override": "let the owner run it: user: OWNER in the spec",
    "dac_read_search": "let the owner run it: user: OWNER in the spec",
    "net_admin": "make the tap before, for example: ip tuntap add tap0 mode tap, and name it: "
    "network: {type: tap, ifname: tap0}",
    "setuid": "in the place of -runas: user: NAME in the spec",
    "setgid": "in the place of -runas: user: NAME in the spec",
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
    return Explanation(
        Verdict.HARMLESS, "the policy that is loaded now does not know one of these types: it was changed since"
    )


def _looks_around(case: Case) -> Explanation | None:
    """Judge what QEMU, its libraries and the launcher look at and do without; the module keeps it out of the log."""
    denial, looks = case.denial, {"getattr", "search", "read", "open", "ioctl"}.issuperset(case.denial.permissions)
    if looks and denial.device == "proc" and denial.kind in ("dir", "file") and denial.source != denial.target:
        who = "the launcher looks for who holds a pair" if case.by_launcher else "QEMU looks at who signals it"
        return Explanation(Verdict.HARMLESS, f"{who}, and goes on where it may not see")
    if case.by_launcher and denial.permissions == ("ioctl",):
        return Explanation(Verdict.HARMLESS, "Python asks of each file that it opens whether it is a terminal")
    if denial.kind == "process" and _ENTRY.issuperset(denial.permissions):
        return Explanation(Verdict.HARMLESS, "environment and signals are not handed on where a domain begins")
    if looks and denial.kind == "file" and denial.target.type == "sysfs_t" and denial.name in ("meminfo", "possible"):
        return Explanation(Verdict.HARMLESS, "a library of QEMU's looks for memory nodes, and goes on without")
    return None


def _launcher(case: Case) -> Explanation | None:
    """Judge the project's own domain: what it lacks it does not need, but for images in unusual places."""
    if not case.by_launcher:
        return None
    target = case.denial.target.type
    if case.denial.kind == "file" and target in places.GENERIC and case.path is not None:
        return adopted(case.path, target, f"the launcher labels images, and {target} is no type of theirs")
    if case.answer.reason is Reason.SILENT:
        return _silent(case)
    if case.asks(_RELABELS):
        return Explanation(
            Verdict.KEEP,
            f"the launcher labels images and nothing else, and {target} is no type of theirs",
            advice="copy the image to a folder for images, such as /var/lib/libvirt/images",
        )
    return Explanation(Verdict.KEEP, "the launcher's domain has the rights that its work needs, and this is none of it")


def _other_vm(case: Case) -> Explanation | None:
    """Judge what carries categories that the VM has not: it is another VM's, whatever its type."""
    source, target = case.denial.source.range, case.denial.target.range
    if source is None or target is None or target.low.categories <= source.high.categories:
        return None
    what = "process" if case.denial.kind == "process" else "socket" if case.denial.kind in _SOCKETS else "file"
    if case.owner is not None:
        shared = "VMs that share a disk each say shareable: yes" if case.denial.kind == "file" else None
        return Explanation(Verdict.KEEP, f"it is a {what} of the VM {case.owner}", advice=shared)
    advice = None
    if what == "file":
        advice = "if no VM runs that has it: confined-qemu recover"
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
            advice="let it connect at the low level: runcon -l s0 COMMAND",
        )
    if case.denial.kind == "fifo_file":
        return Explanation(
            Verdict.MEND,
            f"the pipe has the range {target} of a login shell, wider than the VM's",
            advice="let a program stand between, for example: ... | cat",
        )
    return Explanation(
        Verdict.KEEP,
        f"its level {target.high} is above the VM's, {source.high}",
        advice="a VM for such data has it in its own label: seclabel: {type: static, label: ...}",
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
        "QEMU tries io_uring at every start and goes on without it; only aio=io_uring needs it",
        command=policynames.turned_on(policynames.USE_IO_URING),
    )


def _capability(case: Case) -> Explanation | None:
    if not case.denial.kind.startswith("cap"):
        return None
    for name in case.denial.permissions:
        if name in _CAPABILITIES:
            verdict, why = _CAPABILITIES[name]
            return Explanation(verdict, why, advice=_CAPABILITY_ADVICE.get(name))
    return Explanation(Verdict.KEEP, "a VM has no rights over the host")


def _secret(case: Case) -> Explanation | None:
    target = case.denial.target.type
    if target.startswith(policynames.OURS) and case.denial.kind in FILES:
        return Explanation(Verdict.KEEP, "it is confined-qemu's own, and a VM could change who gets which label")
    if target in _SECRETS:
        return Explanation(Verdict.KEEP, "whoever has it has the host")
    return None


def _other_process(case: Case) -> Explanation | None:
    if case.denial.kind != "process" or case.denial.source == case.denial.target:
        return None
    return Explanation(Verdict.KEEP, "a VM has no business with processes that are not its own")


def _boolean(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.BOOLEANS or not case.answer.booleans:
        return None
    wanted = policynames.OPENING.get(case.denial.target.type)
    about_vms = [s for s in case.answer.booleans if s.name.startswith(policynames.ABOUT_VMS)]
    chosen: Setting = next((s for s in about_vms if s.name == wanted), (about_vms or [*case.answer.booleans])[0])
    why = f"the policy leaves {case.denial.target.type} to a boolean"
    if not about_vms:
        why += ", and this one opens it to more than VMs"
    return Explanation(Verdict.MEND, why, command=f"setsebool -P {chosen.name} {'on' if chosen.on else 'off'}")


def _constraint(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.CONSTRAINT:
        return None
    source, path = case.denial.source, case.path
    if case.denial.kind in FILES and source.range is not None:
        return Explanation(
            Verdict.MEND,
            f"types allow it, and levels do not: to be changed by this VM it needs the VM's own level, {source.range}",
            command=f"chcon -l {source.range} {quoted(path)}" if path is not None else None,
        )
    return Explanation(Verdict.KEEP, "types allow it, and a constraint on levels, roles or users does not")


def _silent(case: Case) -> Explanation | None:
    if case.answer.reason is not Reason.SILENT:
        return None
    return Explanation(Verdict.HARMLESS, "nothing depends on it: the policy keeps it out of the log as a rule")


def _no_rule(case: Case) -> Explanation:
    """Answer where no rule knows more: the policy has no right for it, and no switch."""
    if case.answer.reason is Reason.ROLES:
        return Explanation(Verdict.MEND, "the role may not have this type", command="confined-qemu policy install")
    if case.answer.reason is Reason.NO_RULE_NOW:
        return Explanation(
            Verdict.KEEP,
            "no rule that is on lets a VM do it; whether a boolean would is not known without audit2why",
        )
    return Explanation(Verdict.KEEP, "no rule of the policy lets a VM do it, and no boolean does")


_RULES: tuple[Callable[[Case], Explanation | None], ...] = (
    _allowed_now, _changed_policy, _looks_around, _launcher, _other_vm, _too_high, _generated_code, _io_uring,
    _capability, _secret, _other_process, _boolean, _constraint, _silent, *filerules.RULES,
)  # fmt: skip
