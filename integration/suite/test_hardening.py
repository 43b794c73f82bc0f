"""What a VM's process gives up beside what SELinux takes from it, as the kernel shows it, and what it keeps."""

from __future__ import annotations

import json
import os
import resource

import pytest

from integration.suite import harness, hostile, sides
from integration.suite.policies import HERE

OPEN_TO_ALL = "/etc/debian_version"
"""A file that every domain may read, and no VM needs."""
TAP = "cqtap0"
OPENER = (
    "python3",
    "-c",
    "import fcntl, os, struct, sys; tap = os.open('/dev/net/tun', os.O_RDWR); "
    f"fcntl.ioctl(tap, 0x400454CA, struct.pack('16sH22x', b'{TAP}', 0x1002)); "  # TUNSETIFF: IFF_TAP | IFF_NO_PI
    "os.dup2(tap, 7); os.execvp(sys.argv[1], sys.argv[1:])",
)
"""Hands a tap device over open, as libvirt and shells do."""
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def capabilities(pid: int) -> dict[str, int]:
    """Return the capability sets of a process."""
    found = sides.status(pid)
    return {name: int(found[name], 16) for name in _SETS}


def with_core_files() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))


def test_a_specs_vm_has_given_up_all_of_roots_rights(image: harness.Image) -> None:
    vm = harness.boot(harness.COMMAND, "run", image.spec, preexec_fn=with_core_files)
    qemu = harness.qemu_of(image.path)
    assert capabilities(qemu) == dict.fromkeys(_SETS, 0)
    assert sides.status(qemu)["NoNewPrivs"] == "1"
    assert sides.limits(qemu)["Max core file size"] == ("0", "0")
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == harness.UNUSED


def test_harden_no_keeps_them(image: harness.Image) -> None:
    image.write_spec(harden="no", core="yes")
    vm = harness.boot(harness.COMMAND, "run", image.spec, preexec_fn=with_core_files)
    qemu = harness.qemu_of(image.path)
    mine = capabilities(os.getpid())
    assert mine["CapEff"]
    assert capabilities(qemu) == mine
    assert sides.status(qemu)["NoNewPrivs"] == "0"
    assert sides.limits(qemu)["Max core file size"] == (str(1 << 20), str(1 << 20))
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_command_lines_vm_keeps_its_callers_limits_only(image: harness.Image, drop_in: str) -> None:
    command = [drop_in, *harness.raw_arguments(image.path)]
    for variables, kept, gains in (({}, 0, "1"), ({"CONFINED_QEMU_HARDEN": "no"}, capabilities(os.getpid()), "0")):
        vm = harness.boot(*command, env={**os.environ, **variables}, preexec_fn=with_core_files)
        assert capabilities(vm.pid) == (kept or dict.fromkeys(_SETS, 0))
        assert sides.status(vm.pid)["NoNewPrivs"] == gains
        assert sides.limits(vm.pid)["Max core file size"] == (str(1 << 20), str(1 << 20))
        assert harness.power_off(vm) == 0
        harness.settle()


def test_a_program_that_qemu_runs_may_need_anything(image: harness.Image, folder: str) -> None:
    """A bridge helper is setuid root: QEMU that runs one is started as the caller was."""
    script = os.path.join(folder, "ifup")
    with open(script, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(script, 0o755)
    arguments = ["--", *harness.raw_arguments(image.path), "-nic", f"tap,ifname=t0,script={script},downscript=no"]
    planned = harness.confined("plan", "--json", *arguments)
    assert f"QEMU runs {script}" in harness.confined("plan", *arguments).stdout
    assert '"no_new_privs": false' in planned.stdout
    assert '"no_new_privs": true' in harness.confined("plan", "--json", *arguments[:-2]).stdout


# ---- Landlock as a second wall


@pytest.mark.parametrize(("landlock", "answer"), [("no", "ok"), ("auto", "EACCES"), ("also", "EACCES")])
def test_what_selinux_lets_every_vm_read_landlock_does_not(
    image: harness.Image, hostile_qemu: str, landlock: str, answer: str
) -> None:
    with open(OPEN_TO_ALL, encoding="ascii") as file:
        assert file.read()
    answers = hostile.attempt(image, hostile_qemu, [("read", OPEN_TO_ALL), ("write", image.path)], landlock=landlock)
    assert answers == {("read", OPEN_TO_ALL): answer, ("write", image.path): "ok"}
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_vm_with_a_monitor_keeps_allow_by_path_unless_told(image: harness.Image, folder: str) -> None:
    monitor, new = os.path.join(folder, "qmp"), os.path.join(folder, "new.img")
    with open(new, "wb") as file:
        file.write(bytes(1 << 16))
    harness.run("restorecon", "-F", new)
    for landlock, opened in (("auto", True), ("also", False)):
        image.write_spec(qmp=f"unix:{monitor}", landlock=landlock)
        vm = harness.boot_spec(image)
        (row,) = json.loads(harness.confined("ps", "--json").stdout)["vms"]
        assert row["wall"] == ("selinux" if opened else "selinux+landlock")
        done = harness.confined("allow", "a", new)
        assert (done.returncode == 0) is opened, done.stderr
        client = harness.Qmp(monitor)
        client.greeting()
        client.ask("qmp_capabilities")
        answer = client.ask("blockdev-add", **{"driver": "file", "node-name": "new", "filename": new})
        assert ("return" in answer) is opened, answer
        assert opened or "Landlock holds the VM a as well" in done.stderr
        client.close()
        assert harness.power_off(vm) == 0
        assert harness.short_label(new) == harness.UNUSED


@pytest.mark.parametrize(("landlock", "held"), [("auto", True), ("no", False)])
def test_a_helper_is_held_with_its_vm(image: harness.Image, landlock: str, held: bool) -> None:
    image.write_spec(tpm={"state": "tpm"}, landlock=landlock)
    assert ("held by Landlock with rules of its own" in harness.confined("plan", image.spec).stdout) is held
    vm = harness.boot_spec(image)
    level = harness.level(harness.label(image.path))
    (swtpm,) = harness.processes_as(f"system_u:system_r:confined_qemu_swtpm_t:{level}")
    assert harness.power_off(vm) == 0
    harness.until("the helper ends", lambda: not harness.context(swtpm))
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_tap_by_its_name_or_handed_over_open_is_had_and_no_other_is_made(image: harness.Image) -> None:
    """The interface is root's: the kernel lets its owner attach, where nobody has CAP_NET_ADMIN."""
    harness.run("ip", "tuntap", "add", TAP, "mode", "tap", "user", "root")
    harness.run("ip", "link", "set", TAP, "up")
    try:
        for words in (["sh", image.spec], ["run", image.spec]):
            handed = words[0] == "sh"
            image.write_spec(network={"type": "tap", **({"fd": 7} if handed else {"ifname": TAP})}, landlock="also")
            command = [*OPENER, harness.COMMAND, "run", image.spec] if handed else [harness.COMMAND, *words]
            vm = harness.boot(*command)
            (row,) = json.loads(harness.confined("ps", "--json").stdout)["vms"]
            assert row["wall"] == "selinux+landlock"
            assert _carrier() == "1"
            assert harness.power_off(vm) == 0
            assert _carrier() == "0"
        image.write_spec(network={"type": "tap", "ifname": "cqnone0"}, landlock="also")
        refused = harness.confined("run", image.spec)
        if HERE.opens_taps:
            assert refused.returncode not in (0, 125), refused.stderr
            assert "cqnone0" in refused.stderr
        else:
            assert refused.returncode == 125
            assert "may not open what is labelled system_u:object_r:tun_tap_device_t:s0" in refused.stderr
        assert not os.path.exists("/sys/class/net/cqnone0")
    finally:
        harness.run("ip", "link", "delete", TAP)
    assert harness.short_label(image.path) == harness.UNUSED


def _carrier() -> str:
    with open(f"/sys/class/net/{TAP}/carrier", encoding="ascii") as file:
        return file.read().strip()


def test_a_bridge_helper_which_is_setuid_and_landlock_exclude_each_other(image: harness.Image) -> None:
    bridge = ["--", *harness.raw_arguments(image.path), "-nic", "bridge,br=cqbr0"]
    planned = json.loads(harness.confined("plan", "--json", *bridge).stdout)
    assert (planned["hardening"]["no_new_privs"], planned.get("landlock")) == (False, None)
    variables = {**os.environ, "CONFINED_QEMU_LANDLOCK": "also"}
    refused = harness.run(harness.COMMAND, "exec", *bridge, env=variables, check=False)
    assert refused.returncode == 125
    assert "no_new_privs, which this VM cannot have: QEMU runs" in refused.stderr
    assert harness.short_label(image.path) == harness.UNUSED
