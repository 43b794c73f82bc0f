"""A hostile program in QEMU's place: its own image it may use, and nothing else; every attempt leaves its AVC."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness, hostile
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable


def test_another_vm_is_out_of_reach(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, audit: harness.AuditTrail, folder: str
) -> None:
    attacker, victim = make_image("a"), make_image("b")
    monitor = os.path.join(folder, "monitor.sock")
    victim.write_spec(monitor=f"unix:{monitor}")
    vm = harness.boot_spec(victim)
    pid = harness.qemu_of(victim.path)
    (journal,) = harness.journals()
    targets: list[tuple[str, Any]] = [
        ("read", victim.path),
        ("write", victim.path),
        ("relabel", victim.path),
        ("unlink", monitor),
        ("connect", monitor),
        ("read", journal),
        ("write", journal),
        ("list", os.path.dirname(journal)),
        ("write", "/var/lib/confined-qemu/pairs"),
        ("read", f"/proc/{pid}/mem"),
        ("read", f"/proc/{pid}/environ"),
        ("list", f"/proc/{pid}/fd"),
        ("ptrace", pid),
        ("terminate", pid),
    ]
    answers = hostile.attempt(attacker, hostile_qemu, targets)
    assert {target: result for target, result in answers.items() if result not in ("EACCES", "EPERM")} == {}
    b = harness.level(harness.context(pid))
    assert harness.power_off(vm) == 0
    for permission, target, kind in (
        ("read", f"svirt_image_t:{b}", "file"),
        ("write", f"svirt_image_t:{b}", "file"),
        ("relabelfrom", f"svirt_image_t:{b}", "file"),
        ("write", "virt_image_t:s0", "dir"),
        ("write", f"svirt_image_t:{b}", "sock_file"),
        ("read", "confined_qemu_var_lib_t", "file"),
        ("write", "confined_qemu_var_lib_t", "file"),
        ("read", "confined_qemu_var_lib_t", "dir"),
        ("ptrace", f"svirt_t:{b}", "process"),
        ("signal", f"svirt_t:{b}", "process"),
    ):
        assert audit.has(permission, "svirt_t", target, kind), (permission, target, kind)


def test_the_systems_secrets_are_out_of_reach(
    image: harness.Image, hostile_qemu: str, audit: harness.AuditTrail
) -> None:
    secret = "/root/hostile-test-secret"  # noqa: S105 - a file's name
    with open(secret, "w", encoding="ascii") as file:
        file.write("secret")
    try:
        targets = [
            ("read", "/etc/shadow"),
            ("read", secret),
            ("write", secret),
            ("write", "/etc/passwd"),
            ("create", "/etc/hostile"),
            ("create", "/root/hostile"),
            ("write", harness.QEMU),
            ("relabel", "/etc/passwd"),
            ("execute", harness.LAUNCH),
            ("write", "/sys/fs/selinux/enforce"),
            ("read", "/dev/mem"),
        ]
        answers = hostile.attempt(image, hostile_qemu, targets)
    finally:
        os.unlink(secret)
    assert {target: result for target, result in answers.items() if result not in ("EACCES", "EPERM")} == {}
    for permission, target, kind in (
        ("read", "shadow_t", "file"),
        (HERE.lacks_in_home[0], HERE.roots_home[0], HERE.lacks_in_home[1]),
        ("open", HERE.roots_home[1], "file"),
        ("write", HERE.users_file, "file"),
        ("execute", "confined_qemu_exec_t", "file"),
        ("write", "security_t", "file"),
    ):
        assert audit.has(permission, "svirt_t", target, kind), (permission, target, kind)


def test_its_own_image_is_its_own(image: harness.Image, hostile_qemu: str) -> None:
    answers = hostile.attempt(image, hostile_qemu, [("read", image.path), ("write", image.path)])
    assert set(answers.values()) == {"ok"}
    assert harness.short_label(image.path) == harness.UNUSED


@pytest.mark.parametrize("kind", ["stay", "chain"])
def test_what_a_vm_leaves_behind_ends_with_it(image: harness.Image, hostile_qemu: str, kind: str) -> None:
    """What it leaves holds its output, which is read to its end."""
    answers = hostile.attempt(image, hostile_qemu, [(kind, 0)])
    assert set(answers.values()) == {"ok"}
    assert ":svirt_t:" not in harness.run("ps", "-eZ").stdout
    assert harness.short_label(image.path) == harness.UNUSED


@pytest.mark.parametrize("path", ["/etc/shadow", "/usr/bin/env", "/etc/passwd", "/boot", harness.LAUNCH])
def test_a_spec_that_names_a_system_file_is_refused(image: harness.Image, path: str) -> None:
    before = harness.label(path)
    image.write_spec(disks=[{"file": path, "format": "raw", "bus": "ide"}])
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert len(harness.messages(done.stderr)) == 1, done.stderr
    assert path in done.stderr
    assert harness.label(path) == before


def test_the_launchers_domain_itself_may_not_relabel_system_files(audit: harness.AuditTrail) -> None:
    """Not only does the plan refuse: the kernel does, whatever runs in the domain."""
    script = "/usr/local/libexec/confined-qemu/trial"
    with open(script, "w", encoding="ascii") as file:
        file.write(
            "#!/usr/bin/python3 -IS\n"
            "import errno, os, sys\n"
            "print(open('/proc/self/attr/current').read().rstrip(chr(0)))\n"
            "for path in sys.argv[1:]:\n"
            "    try:\n"
            "        os.setxattr(path, 'security.selinux', b'system_u:object_r:svirt_image_t:s0\\0')\n"
            "        print('ok', path)\n"
            "    except OSError as error:\n"
            "        print(errno.errorcode[error.errno], path)\n"
            "try:\n"
            "    open('/etc/shadow').read()\n"
            "    print('ok shadow')\n"
            "except OSError as error:\n"
            "    print(errno.errorcode[error.errno], 'shadow')\n"
        )
    os.chmod(script, 0o755)
    subprocess.run(["chcon", "-t", "confined_qemu_exec_t", script], check=True)
    mine = os.path.join(harness.IMAGES, "mine.img")
    with open(mine, "wb"):
        subprocess.run(["restorecon", "-F", mine], check=True)
    try:
        said = harness.run(script, "/etc/shadow", "/usr/bin/env", "/etc/passwd", mine).stdout.splitlines()
        assert harness.short_label(mine) == "svirt_image_t:s0"
    finally:
        os.unlink(script)
        os.unlink(mine)
    assert ":confined_qemu_t:s0" in said[0]
    assert said[1:] == [
        "EACCES /etc/shadow",
        "EACCES /usr/bin/env",
        "EACCES /etc/passwd",
        f"ok {mine}",
        "EACCES shadow",
    ]
    assert audit.has("relabelfrom", "confined_qemu_t", "shadow_t", "file")
    assert audit.has("relabelfrom", "confined_qemu_t", "bin_t", "file")
