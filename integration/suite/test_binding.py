"""libselinux is called by ctypes, with the answers of its Python binding, which EL 9's 3.11 does not have."""

from __future__ import annotations

import json

from integration.suite import harness

WITHOUT = "sys.modules['selinux'] = None"
"""What `policy install` writes into the launch script where there is no binding."""
PYTHON = "/opt/confined-qemu/bin/python"
ANSWERS = """
import json, sys
from confined_qemu.host import lsm
if sys.argv[1] == "with":
    import selinux
    lsm._binding = lambda: selinux
from confined_qemu.model.context import Context
from confined_qemu.model.errors import LsmError

def failure(act):
    try:
        act()
    except LsmError as error:
        return str(error)

vm, other = (Context.parse(f"system_u:system_r:svirt_t:s0:c{n},c{n + 1}") for n in (1, 5))
types = ("shadow_t:s0", "etc_t:s0", "svirt_image_t:s0", "svirt_image_t:s0:c5,c6", "qemu_exec_t:s0")
files = [Context.parse(f"system_u:object_r:{name}") for name in types]
wrong = Context.parse("system_u:system_r:no_such_type_t:s0")
rights = ("open", "read", "write", "getattr", "execute", "no_such_right")
print(json.dumps({
    "binding": type(lsm._binding()).__name__,
    "answers": [
        [lsm.is_valid(context) for context in (vm, wrong)],
        [lsm.denied(vm, file, "file", rights) for file in files],
        lsm.denied(vm, other, "no_such_class", rights),
        failure(lambda: lsm.denied(wrong, vm, "file", rights)),
        [str(lsm.created(vm, file, "file")) for file in files],
        [str(lsm.default_label(path, 0o100000)) for path in ("/etc/shadow", "/var/lib/libvirt/images/x", "/tmp/x")],
        str(lsm.default_label("/dev/kvm", 0o020000)),
        [lsm.user_type(role) for role in ("unconfined_r", "system_r")],
        repr(lsm.policy_contexts()), lsm.local_file_contexts(),
        failure(lambda: lsm.set_exec_context(wrong)),
    ],
}))
"""
REASONS = """
import json, sys
if sys.argv[1] == "without":
    sys.modules["selinux"] = None
from confined_qemu.host import lsm
from confined_qemu.model.context import Context

vm = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
asked = [("svirt_image_t:s0:c1,c2", "read"), ("svirt_image_t:s0:c5,c6", "read"), ("shadow_t:s0", "read"),
         ("nfs_t:s0", "open"), ("no_such_type_t:s0", "read")]
with lsm.policy_opened() as why:
    answers = [why(vm, Context.parse(f"system_u:object_r:{kind}"), "file", (right,)) for kind, right in asked]
    print(json.dumps([answer.reason.value for answer in answers]))
"""


def _asked(program: str) -> list[object]:
    return [json.loads(harness.run(PYTHON, "-c", program, how, cwd="/").stdout) for how in ("with", "without")]


def test_both_ways_answer_the_same() -> None:
    binding, library = _asked(ANSWERS)
    assert isinstance(binding, dict)
    assert isinstance(library, dict)
    assert (binding["binding"], library["binding"]) == ("module", "Library")
    assert library["answers"] == binding["answers"]
    assert [True, False] in library["answers"]


def test_why_something_is_denied_is_known_without_audit2why() -> None:
    binding, library = _asked(REASONS)
    assert binding == ["allowed", "constraint", "types", "booleans", "unknown"]
    assert library == ["allowed", "constraint", "no rule now", "booleans", "unknown"]


def test_a_vm_runs_and_its_labels_come_back(image: harness.Image, audit: harness.AuditTrail) -> None:
    image.write_spec(qmp=f"unix:{image.path}.sock", accel="kvm")
    with harness.trial(WITHOUT) as trial:
        vm = harness.boot(trial, "run", image.spec)
        pair = harness.level(harness.label(image.path))
        assert harness.context(harness.qemu_of(image.path)) == f"system_u:system_r:svirt_t:{pair}"
        assert harness.short_label(image.path) == f"svirt_image_t:{pair}"
        assert harness.power_off(vm) == 0
        refused = harness.run(trial, "exec", "--", *harness.raw_arguments("/etc/shadow"), check=False)
    assert refused.returncode == 125
    assert harness.short_label(image.path) == harness.UNUSED
    ours = [denial for denial in audit.denials() if ":confined_qemu_t:" in denial.source]
    assert [denial.text for denial in ours if "execmem" in denial.permissions] == []
