"""What is refused on a machine without SELinux or without VT-x and AMD-V: one line each, and nothing is started."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from integration.buildhost import hosted
from integration.buildhost.hosted import Vm, refused, run

KVM_KEYS = ("vmx", "svm")


def _flags() -> set[str]:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return {word for line in file if line.startswith("flags") for word in line.split()}


def test_without_selinux_nothing_starts_that_asks_for_it(command: str, drop_in: str, vm: Vm) -> None:
    before = os.stat(vm.image)
    vm.write(confinement="selinux")
    selinux = hosted.environment(CONFINED_QEMU_CONFINEMENT="selinux")
    assert refused(run(command, "run", vm.spec)) == hosted.NO_SELINUX
    assert refused(run(command, "exec", "--", *vm.raw(), env=selinux)) == hosted.NO_SELINUX
    assert refused(run(drop_in, *vm.raw(), env=selinux)) == hosted.NO_SELINUX
    after = os.stat(vm.image)
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert sorted(os.listdir(vm.folder)) == ["a.img", "a.yaml"]


def test_accel_kvm_follows_the_cpu_and_not_the_device_node(command: str, vm: Vm) -> None:
    vm.write(accel="kvm")
    plan = run(command, "plan", vm.spec)
    if _flags() & set(KVM_KEYS):
        assert plan.returncode == 0, plan
        return
    os.close(os.open("/dev/kvm", os.O_RDWR))  # the node is there and opens: it proves nothing
    done = run(command, "run", vm.spec)
    assert done.returncode == 125
    lines = [line for line in done.stderr.splitlines() if "warning:" not in line]
    assert all(hint.startswith("confined-qemu:   ") for hint in lines[1:])
    assert re.match(r"confined-qemu: accel: kvm: .*VT-x.*AMD-V", lines[0])
    assert plan.returncode == 125


def test_accel_auto_takes_tcg_without_the_cpus_help_and_says_why(command: str, vm: Vm) -> None:
    vm.write(accel="auto")
    plan = run(command, "plan", vm.spec)
    assert plan.returncode == 0, plan
    line = next(line for line in plan.stdout.splitlines() if line.startswith("accel"))
    if _flags() & set(KVM_KEYS):
        assert re.match(r"accel +kvm: the CPU has (vmx|svm) and /dev/kvm answers", line)
    else:
        assert re.match(r"accel +tcg: no KVM: .*(VT-x|AMD-V)", line)


def test_an_emulator_that_is_not_there_is_127(command: str, vm: Vm) -> None:
    for argv in (["run", vm.write(emulator="no-such-qemu")], ["exec", "--emulator", "no-such-qemu", "--", *vm.raw()]):
        done = run(command, *argv)
        assert (done.returncode, done.stdout) == (127, "")
        assert all(hint.startswith("confined-qemu:   ") for hint in done.stderr.splitlines()[1:])
        assert done.stderr.startswith("confined-qemu: no-such-qemu: ")


def test_an_emulator_that_cannot_be_executed_is_126(command: str, vm: Vm) -> None:
    for argv in (["run", vm.write(emulator=vm.image)], ["exec", "--emulator", vm.image, "--", *vm.raw()]):
        done = run(command, *argv)
        assert (done.returncode, done.stdout) == (126, "")
        assert all(hint.startswith("confined-qemu:   ") for hint in done.stderr.splitlines()[1:])
        assert done.stderr.startswith(f"confined-qemu: {vm.image}: ")


def test_an_emulator_that_the_kernel_does_not_take_is_126(command: str, vm: Vm) -> None:
    os.chmod(vm.image, 0o700)
    done = run(command, "run", vm.write(emulator=vm.image))
    assert (done.returncode, done.stdout) == (126, "")
    assert vm.image in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["run"], ["run", "--bogus", "x.yaml"], ["plan"], ["policy"], ["settle", "--timeout", "soon"]],
)
def test_a_wrong_command_line_is_one_line(command: str, words: list[str]) -> None:
    assert "--help" in refused(run(command, *words))


SPECS = {
    "unknown key": ("name: a\ncolour: red\n", "2:1", "colour"),
    "duplicate key": ("name: a\nname: b\n", "2:1", "duplicate"),
    "wrong type": ("name: a\nmemory: [1]\n", "2:9", "memory"),
    "bad context": ("name: a\nseclabel: {type: static, label: nonsense}\n", "2:33", "seclabel.label"),
    "category out of range": (
        "name: a\nseclabel: {type: static, label: 'system_u:system_r:svirt_t:s0:c5000'}\n", "2:33", "c5000"
    ),
    "broken YAML": ("name: [\n", "2:1", "YAML"),
    "empty": ("", "1:1", "empty"),
    "a list": ("- a\n", "1:1", ""),
    "NUL": ("name: a\0b\n", "1:", ""),
    "YAML 1.1": ("name: a\ncpus: 1:30\n", "2:7", "cpus"),
    "no format": ("name: a\ndisks:\n  - {file: x.img}\n", "3:", "format"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_bad_spec_is_one_line_with_its_place(command: str, vm: Vm, kind: str, verb: str) -> None:
    text, place, word = SPECS[kind]
    with open(vm.spec, "w", encoding="utf-8") as file:
        file.write(text)
    line = refused(run(command, verb, "a.yaml", cwd=vm.folder))
    assert line.startswith(f"confined-qemu: a.yaml:{place}")
    assert re.match(r"confined-qemu: a\.yaml:\d+:\d+: ", line)
    assert word in line


def test_every_problem_of_a_spec_gets_its_line(command: str, vm: Vm) -> None:
    with open(vm.spec, "w", encoding="utf-8") as file:
        file.write("name: a\nbogus: 1\nmemory: [1]\ndisks:\n  - {file: x, format: raw, bus: tape}\n")
    done = run(command, "run", "a.yaml", cwd=vm.folder)
    assert done.returncode == 125
    places = [line.split(" ")[1] for line in done.stderr.splitlines() if not line.startswith("confined-qemu:   ")]
    assert places == ["a.yaml:2:1:", "a.yaml:3:9:", "a.yaml:5:33:"]


@pytest.mark.parametrize("what", ["missing", "folder", "binary", "huge"])
def test_what_is_no_spec_is_one_line(command: str, vm: Vm, what: str) -> None:
    path = os.path.join(vm.folder, what)
    if what == "folder":
        os.mkdir(path)
    elif what == "binary":
        with open(path, "wb") as file:
            file.write(bytes(range(255, 0, -1)))
    elif what == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 30)
    assert path in refused(run(command, "run", path))


def test_text_for_a_terminal_stays_on_its_line(command: str, vm: Vm) -> None:
    line = refused(run(command, "run", os.path.join(vm.folder, "a\nb\x1b[2J.yaml")))
    assert "\x1b" not in line


def test_an_unknown_qemu_option_is_refused(command: str, drop_in: str, vm: Vm) -> None:
    none = hosted.environment(CONFINED_QEMU_CONFINEMENT="none")
    assert "-bogus" in refused(run(command, "exec", "--confinement", "none", "--", "-bogus"))
    assert "-bogus" in refused(run(drop_in, *vm.raw("-bogus"), env=none))


def test_no_verb_that_asks_ends_in_a_traceback(command: str) -> None:
    for words in (["check"], ["ps"], ["ps", "--json"], ["recover"], ["settle"], ["policy", "status"], ["schema"]):
        done = run(command, *words, stderr=subprocess.STDOUT)
        assert "Traceback" not in done.stdout, words


def test_options_stand_before_or_after_the_spec(command: str, vm: Vm) -> None:
    for words in (["plan", vm.spec, "--json"], ["plan", "--json", vm.spec], ["plan", vm.spec, "--json", "--", "-S"]):
        done = run(command, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert json.loads(done.stdout)["argv"][-1] == ("-S" if "-S" in words else "chardev:vm-serial")
    assert "-S" in refused(run(command, "plan", vm.spec, "-S"))
