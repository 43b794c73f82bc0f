"""`denials`: what SELinux denied a VM, explained, also after its end; and the small domain that reads the log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness
from integration.suite.policies import HERE
from integration.suite.test_hosts import user  # noqa: F401 - a fixture

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Iterator

SCRIPT = "/usr/local/libexec/confined-qemu/denials"
TRIAL = harness.TRIAL
_RUN = "\n  run: "


def denials(*arguments: str) -> list[str]:
    """Return the lines that `denials` prints."""
    done = harness.confined("denials", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    # a VM's title, and beneath it its denials, whose hints stand two columns further to the right
    return [line.replace("\n    ", "\n  ") for line in re.split(r"\n(?!    \S)", done.stdout.removesuffix("\n"))]


def only(lines: list[str], *parts: str) -> str:
    """Return the one line that has all these parts."""
    found = [line for line in lines if all(part in line for part in parts)]
    assert len(found) == 1, lines
    return found[0]


def mend(line: str) -> str:
    """Return the command that a line says to run."""
    return line.rpartition(_RUN)[2]


@pytest.fixture
def paused() -> Iterator[str]:
    """The launch script, but that it says `planned` and waits for a byte before it becomes QEMU."""
    pause = (
        "import os\nfrom confined_qemu.launch import execute\n"
        "original = execute.become\n"
        "def pausing(*arguments):\n"
        "    os.write(1, b'planned\\n')\n"
        "    os.read(0, 1)\n"
        "    original(*arguments)\n"
        "execute.become = pausing\n"
    )
    with harness.trial(pause) as trial:
        yield trial


@pytest.fixture
def quiet() -> Iterator[None]:
    """No denial of QEMU's own making: the one of its io_uring probe, which elsewhere is not logged."""
    harness.run("setsebool", "confined_qemu_use_io_uring=on")
    yield
    harness.run("setsebool", "confined_qemu_use_io_uring=off")


# ---- the page's example


def fail(image: harness.Image, paused: str) -> str:
    """Have a VM fail: between its plan and its start it loses the right to generate code. Return what was said."""
    image.write_spec(accel="tcg", **HERE.tcg_in_svirt)
    vm = harness.Process([paused, "run", image.spec])
    vm.read_until(b"planned")
    harness.run("setsebool", "virt_use_execmem=off")
    vm.send(b"g")
    assert vm.popen.stderr is not None
    errors: str = vm.popen.stderr.read().decode()
    assert vm.wait() == 1
    return errors


@pytest.mark.usefixtures("execmem", "quiet")
def test_execmem_is_explained_when_qemu_fails_and_afterwards_and_mended(
    make_image: Callable[[str], harness.Image], paused: str
) -> None:
    """The plan refuses TCG without the boolean: here it is switched off between plan and start."""
    image = make_image("page")  # names of its own here: those of earlier tests are remembered
    errors = fail(image, paused)
    (said,) = harness.lines(errors)
    assert said.startswith("confined-qemu: SELinux denied { execmem } to qemu-system-x86 on itself (process): ")
    assert mend(said) == "setsebool -P virt_use_execmem on"
    # QEMU's own message came first
    assert errors.index("mprotect") < errors.index(said.partition("\n")[0])

    (title, line) = [line for line in denials("page") if "sysfs_t" not in line]
    assert title.startswith("page (system_u:system_r:svirt_t:s0:c")
    assert line.strip() == said.removeprefix("confined-qemu: SELinux ")

    # the same line without -P, which would build the whole policy anew: a minute
    harness.run("sh", "-c", mend(line).replace(" -P", ""))
    vm = harness.boot_spec(image)
    line = only(denials("page"), "execmem")
    assert line.endswith("the policy allows it now")
    vm.popen.terminate()
    vm.wait()


# ---- another VM's image, names that a VM chose, equal denials, JSON, an ended VM


@contextmanager
def monitor(image: harness.Image, folder: str) -> Iterator[Callable[[str, str], dict[str, Any]]]:
    """Boot a VM and give a function that opens a file over QMP, as an image: (node's name, path)."""
    path = os.path.join(folder, f"{image.name}.qmp")
    image.write_spec(qmp=f"unix:{path}")
    vm = harness.boot_spec(image)
    client = harness.Qmp(path)
    client.greeting()
    client.ask("qmp_capabilities")
    yield lambda node, file: client.ask("blockdev-add", **{"driver": "file", "node-name": node, "filename": file})
    client.close()
    assert harness.power_off(vm) == 0


def test_what_a_vm_opens_over_qmp(
    make_image: Callable[[str], harness.Image], folder: str, audit: harness.AuditTrail
) -> None:
    a, b = make_image("qmp-a"), make_image("qmp-b")
    odd = os.path.join(folder, "x\ny' .img")
    with open(odd, "wb") as file:
        file.write(bytes(1 << 16))
    harness.run("restorecon", "-F", odd)
    with monitor(a, folder) as a_opens, monitor(b, folder) as b_opens:
        level = harness.level(harness.label(b.path))
        for _ in range(2):
            assert "Permission denied" in a_opens("theirs", b.path)["error"]["desc"]
        for opens in (a_opens, b_opens):
            assert "error" in opens("odd", odd)
        assert audit.has("read", "svirt_t", f"svirt_image_t:{level}", "file")

        line = only(denials(a.name), b.path)
        assert f"(svirt_image_t:{level}) (2 times): must stay denied: it is a file of the VM qmp-b" in line
        # each VM has its own line about the odd file, whose name is one line and one word
        of_all = denials()
        assert {"qmp-a", "qmp-b"} <= {title.partition(" ")[0] for title in of_all if not title.startswith(" ")}
        assert len([line for line in of_all if "x\\ny" in line]) >= 2
        assert all(line.isprintable() for denial in of_all for line in denial.split("\n"))
    # both have ended, and it can still be asked
    assert only(denials(a.name), b.path) == line
    assert only(denials(b.name), "x\\ny")

    done = harness.confined("denials", "--json", a.name)
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    (vm,) = found["vms"]
    assert (vm["name"], vm["started"] < vm["ended"]) == (a.name, True)
    (theirs,) = (entry for entry in vm["denials"] if entry["path"] == b.path)
    assert (theirs["verdict"], theirs["count"], theirs["class"], theirs["command"]) == ("keep", 2, "file", None)

    done = harness.confined("denials", "nosuch")
    assert done.returncode == 125
    assert "there is no VM 'nosuch'\nconfined-qemu:   known are: " in done.stderr


def test_the_command_for_a_file_that_is_opened_later_mends_it(
    make_image: Callable[[str], harness.Image], folder: str, audit: harness.AuditTrail
) -> None:
    image = make_image("later")
    odd = os.path.join(folder, "x\ny' .img")
    with open(odd, "wb") as file:
        file.write(bytes(1 << 16))
    harness.run("restorecon", "-F", odd)
    with monitor(image, folder) as opens:
        assert "error" in opens("odd", odd)
        line = only(denials("later"), "x\\ny")
        assert "it is none of the files that the VM was started with" in line
        level = harness.level(harness.label(image.path))
        assert ": confined-qemu allow later " in line
        assert harness.confined("allow", "later", odd).returncode == 0
        assert opens("odd", odd) == {"return": {}}
        # its own image under its feet
        harness.run("restorecon", "-F", image.path)
        assert "error" in opens("own", image.path)
        line = only(denials("later"), image.path)
        assert "its label was changed while the VM ran" in line
        harness.run("bash", "-c", mend(line))
        assert harness.short_label(image.path) == f"svirt_image_t:{level}"
    assert audit.has("read" if "read" in HERE.lacks else "write", "svirt_t", "virt_image_t:s0", "file")


# ---- run whose QEMU fails, and who may know


@pytest.mark.usefixtures("quiet")
def test_a_failure_that_selinux_has_no_part_in_says_nothing_more(image: harness.Image) -> None:
    image.write_spec("-device", "nosuch")
    done = harness.confined("run", image.spec)
    assert done.returncode == 1
    assert list(harness.lines(done.stderr)) == []


def test_an_ordinary_user_gets_a_hint_and_root_the_answer(user: pwd.struct_passwd) -> None:  # noqa: F811
    image = harness.Image(user.pw_dir, "mine")
    for path in (image.path, image.write_spec("-device", "nosuch")):
        os.chown(path, user.pw_uid, user.pw_gid)
    harness.run("restorecon", "-RF", user.pw_dir)
    command = f"cat </dev/null | {harness.COMMAND} run {image.spec} 2>&1 >/dev/null | cat"
    done = harness.run("runuser", "-u", user.pw_name, "--", "sh", "-c", command)
    (said,) = harness.lines(done.stdout)
    told = "whether SELinux denied the VM something is in the audit log, which you may not read"
    assert said == f"confined-qemu: {told}\n  run as root: confined-qemu denials mine"
    done = harness.run("runuser", "-u", user.pw_name, "--", "sh", "-c", f"{harness.COMMAND} denials 2>&1 | cat")
    assert done.stdout.startswith("confined-qemu: /var/log/audit/audit.log: the audit log cannot be read: ")
    assert "sudo confined-qemu denials" in done.stdout
    if HERE.io_uring:
        assert denials("mine") == ["mine: no denials"]
    else:
        assert only(denials("mine"), "io_uring")


# ---- the domain


def test_the_domain_reads_the_log_and_nothing_secret_and_writes_nothing(audit: harness.AuditTrail) -> None:
    attempts = {
        "log": f"open({harness.AUDIT_LOG!r}).close()",
        "policy": "open('/sys/fs/selinux/policy', 'rb').close()",
        "shadow": "open('/etc/shadow').close()",
        "home": "open('/root/.bashrc').close()",
        "write": "open('/root/x', 'w').close()",
        "append": f"open({harness.AUDIT_LOG!r}, 'a').close()",
        "journal": "open('/var/lib/confined-qemu/0/history', 'a').close()",
        "enforce": "os.write(os.open('/sys/fs/selinux/enforce', os.O_WRONLY), b'0')",
        "relabel": "os.setxattr('/etc/passwd', 'security.selinux', b'system_u:object_r:svirt_image_t:s0')",
        "network": "socket.socket(socket.AF_INET)",
        "program": "os.execv('/bin/true', ['true'])",
    }
    lines = [
        "#!/usr/bin/python3 -IS",
        "import os, socket",
        "print(open('/proc/self/attr/current').read().rstrip(chr(0)))",
    ]
    for name, attempt in attempts.items():
        lines += ["try:", f"    {attempt}", f"    print({name!r}, 'ok')"]
        lines += ["except OSError as error:", f"    print({name!r}, error.errno)"]
    with open(TRIAL, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(TRIAL, 0o755)
    harness.run("chcon", "-t", "confined_qemu_denials_exec_t", TRIAL)
    try:
        context, *said = harness.run(TRIAL).stdout.splitlines()
    finally:
        os.unlink(TRIAL)
    assert ":confined_qemu_denials_t:" in context
    answers = dict(line.split() for line in said)
    assert {name for name, answer in answers.items() if answer == "ok"} == {"log", "policy"}
    assert set(answers) == set(attempts)
    assert harness.run("getenforce").stdout == "Enforcing\n"
    for permission, target, kind in (
        ("read", "shadow_t", "file"),
        ("append", "auditd_log_t", "file"),
        ("append", "confined_qemu_var_lib_t", "file"),
        ("setenforce", "security_t", "security"),
        ("relabelfrom", HERE.users_file, "file"),
        ("create", "confined_qemu_denials_t", "tcp_socket"),
        ("execute_no_trans", "bin_t", "file"),
    ):
        assert audit.has(permission, "confined_qemu_denials_t", target, kind), (permission, target, kind)


def test_the_launchers_domain_may_not_read_the_log(audit: harness.AuditTrail) -> None:
    with open(TRIAL, "w", encoding="ascii") as file:
        file.write(f"#!/usr/bin/python3 -IS\nopen({harness.AUDIT_LOG!r})\n")
    os.chmod(TRIAL, 0o755)
    harness.run("chcon", "-t", "confined_qemu_exec_t", TRIAL)
    try:
        assert "PermissionError" in harness.run(TRIAL, check=False).stderr
    finally:
        os.unlink(TRIAL)
    assert audit.has("read", "confined_qemu_t", "auditd_log_t", "file")


# ---- where auditd does not run


@pytest.fixture
def no_auditd() -> Iterator[None]:
    """The kernel's log gets the records, all of them: here more come at once than elsewhere (no dontaudit rules)."""
    limit = "/proc/sys/kernel/printk_ratelimit"
    with open(limit, encoding="ascii") as file:
        before = file.read()
    _write(limit, "0")
    with open("/run/auditd.pid", encoding="ascii") as file:
        pid = int(file.read())
    pidfd = os.pidfd_open(pid)
    harness.kill(pid, signal.SIGTERM)
    harness.until("auditd ends", lambda: not os.path.exists("/run/auditd.pid"))
    os.close(pidfd)
    yield
    _write(limit, before)
    subprocess.run(["systemctl", "restart", "auditd"], check=True)
    harness.until("auditd runs", lambda: os.path.exists("/run/auditd.pid"))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@pytest.mark.usefixtures("no_auditd", "execmem", "quiet")
def test_without_auditd_the_kernels_log_is_read(make_image: Callable[[str], harness.Image], paused: str) -> None:
    (said,) = harness.lines(fail(make_image("kernel-log"), paused))
    assert "execmem" in said
    assert only(denials("kernel-log"), "execmem")
