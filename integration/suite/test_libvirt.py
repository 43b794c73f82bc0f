"""Beside the real libvirt: its VMs, their pairs and images stay its own, and what it leaves in a crash is cleaned."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, virtd

if TYPE_CHECKING:
    from collections.abc import Callable

NOTE = "trusted.libvirt.security."
LABEL, COUNT, BOOTED = (NOTE + name for name in ("selinux", "ref_selinux", "timestamp_selinux"))
DEAD = "system_u:object_r:svirt_image_t:s0:c1,c2"
FREE = "system_u:object_r:virt_image_t:s0"


def images(folder: str, *names: str) -> list[str]:
    """Make images labelled virt_image_t."""
    paths = [os.path.join(folder, name) for name in names]
    for path in paths:
        with open(path, "wb") as file:
            file.write(bytes(harness.IMAGE_SIZE))
    harness.run("restorecon", "-RF", folder)
    return paths


def notes(path: str) -> dict[str, str]:
    """Return what libvirt noted on a file about SELinux."""
    found = {name: os.getxattr(path, name).decode() for name in os.listxattr(path) if name.startswith(NOTE)}
    return {name: value for name, value in found.items() if name.endswith("selinux")}


def note(path: str, label: str, count: str, booted: str, now: str) -> None:
    """Leave on a file what a crashed libvirt leaves: the note, and `now` as its label."""
    for name, value in ((LABEL, label), (COUNT, count), (BOOTED, booted)):
        os.setxattr(path, name, value.encode())
    os.setxattr(path, "security.selinux", now.encode())


def boot_time() -> str:
    """Return when this boot began, as the kernel says it."""
    with open("/proc/stat", encoding="ascii") as file:
        return next(line.split()[1] for line in file if line.startswith("btime "))


def boot_times() -> list[int]:
    """Return when this boot began: as the kernel says it now, and to the minute as utmp noted it then.

    A guest that goes on from a saved state has its clock set in between. libvirt goes by utmp where it may read it.
    """
    noted = harness.run("who", "-b").stdout.split()[-2:]
    return [int(boot_time()), int(harness.run("date", "+%s", "-d", " ".join(noted)).stdout)]


def recover(*paths: str, code: int = 0) -> dict[str, dict[str, str | int | None]]:
    """Run `recover --libvirt` and return its rows by path."""
    done = harness.confined("recover", "--libvirt", "--json", *paths)
    assert done.returncode == code, done.stderr
    return {row["path"]: row for row in json.loads(done.stdout)["libvirt"]}


@pytest.mark.usefixtures("libvirtd")
def test_a_running_vm_of_libvirts_keeps_its_images_and_its_pair(
    make_image: Callable[[str], harness.Image], folder: str, audit: harness.AuditTrail
) -> None:
    ours, other = make_image("ours"), make_image("other")
    theirs, readonly = images(folder, "theirs.img", "readonly.img")
    domain = virtd.Domain(folder, "lv", [theirs], [readonly])
    pid = domain.create()
    its_context, its_level = harness.context(pid), harness.level(harness.label(theirs))
    assert its_context == f"system_u:system_r:svirt_t:{its_level}"
    noted = notes(theirs)
    assert (noted[LABEL], noted[COUNT]) == (FREE, "1")

    # its image is refused, by pid and context, and the read-only one is not taken from under it
    for path, words in (
        (theirs, f"labelled for the running process {pid} ({its_context})"),
        (readonly, "locked by another QEMU"),
    ):
        before = harness.label(path)
        ours.write_spec(disks=[{"file": path, "format": "raw"}])
        done = harness.confined("run", ours.spec)
        assert done.returncode == 125
        assert words in done.stderr, done.stderr
        assert harness.label(path) == before

    # where its pair is the only one that may be drawn, there is none left
    other.write_spec()
    done = harness.run("runcon", "-l", f"s0-{its_level}", harness.COMMAND, "run", other.spec, check=False)
    assert done.returncode == 125
    assert "all 1 category pairs of this window are in use" in done.stderr
    # ours runs beside it on what both may read
    ours.write_spec(disks=[{"file": readonly, "format": "raw", "readonly": True}])
    vm = harness.boot_spec(ours)
    assert harness.short_label(readonly) == before.split(":", 2)[2] == "virt_content_t:s0"
    assert harness.power_off(vm) == 0

    # what libvirt noted of it is right and stays; a count that is not is lowered
    rows = recover()
    assert {path: (row["action"], row["count"]) for path, row in rows.items()} == {
        theirs: ("left", 1), domain.log: ("left", 1),
    }  # fmt: skip
    assert f"pid {pid}" in str(rows[theirs]["why"])
    os.setxattr(theirs, COUNT, b"2")
    assert recover()[theirs]["action"] == "lowered"
    assert notes(theirs) == noted
    assert harness.label(theirs) == f"system_u:object_r:svirt_image_t:{its_level}"

    domain.destroy()
    assert (harness.label(theirs), notes(theirs)) == (FREE, {})
    assert harness.short_label(readonly) == "virt_content_t:s0"
    seen = [denial for denial in audit.denials() if ":confined_qemu_t:" in denial.source]
    assert not [denial.text for denial in seen if ":svirt" in denial.target or ":virt_" in denial.target]


@pytest.mark.usefixtures("libvirtd")
def test_what_a_crashed_libvirt_left_goes_back(folder: str, make_image: Callable[[str], harness.Image]) -> None:
    ours = make_image("ours")
    first, second = images(folder, "first.img", "second.img")
    mine = "unconfined_u:object_r:virt_image_t:s0"
    os.setxattr(second, "security.selinux", mine.encode())
    pid = virtd.Domain(folder, "crash", [first, second]).create()
    virtd.RUNNING.clear()
    os.kill(virtd.daemon(), 9)
    os.kill(pid, 9)
    harness.until("QEMU ends", lambda: not harness.context(pid))
    left, noted = harness.label(first), notes(first)
    assert (noted[LABEL], noted[COUNT]) == (FREE, "1")
    assert any(abs(int(noted[BOOTED]) - began) < 60 for began in boot_times())

    # our own VM on such an image: it runs, leaves libvirt's note as it is, and the label is no dead VM's afterwards
    ours.write_spec(disks=[{"file": first, "format": "raw"}])
    vm = harness.boot_spec(ours)
    assert harness.label(first) not in {left, FREE}
    assert recover()[first]["action"] == "left"
    assert harness.power_off(vm) == 0
    assert (harness.label(first), notes(first)) == (FREE, noted)

    note(second, mine, "1", noted[BOOTED], left)
    rows = recover()
    assert {path: row["action"] for path, row in rows.items()} == {first: "forgotten", second: "restored"}
    assert (harness.label(first), notes(first)) == (FREE, {})
    assert (harness.label(second), notes(second)) == (mine, {})
    assert recover() == {}
    virtd.stop()
    virtd.start()


def test_notes_of_every_kind(folder: str) -> None:
    now, other_boot, mine = boot_time(), "1000000000", "unconfined_u:object_r:virt_image_t:s0"
    cases = {
        "dead": (mine, "1", now, DEAD, "restored", mine),
        "counted twice": (mine, "2", now, DEAD, "restored", mine),
        "another boot": (mine, "1", other_boot, DEAD, "restored", mine),
        "content": (mine, "3", other_boot, "system_u:object_r:virt_content_t:s0", "restored", mine),
        "relabelled since": (mine, "1", other_boot, FREE, "forgotten", FREE),
        "a dead label noted": (DEAD, "1", other_boot, DEAD.replace("c1", "c3"), "restored", FREE),
        "a type of another policy": ("system_u:object_r:no_such_t:s0", "1", now, DEAD, "restored", FREE),
        "no count": (mine, "many", now, DEAD, "failed", DEAD),
        "no label": ("rubbish", "1", now, DEAD, "failed", DEAD),
        "a\nline": (mine, "1", now, DEAD, "restored", mine),
    }
    *made, linked = images(folder, *cases, "linked")
    paths = dict(zip(cases, made, strict=True))
    for name, (label, count, booted, given, _, _) in cases.items():
        note(paths[name], label, count, booted, given)
    aside = f"{folder}-aside"
    os.mkdir(aside)
    try:
        os.rename(linked, target := os.path.join(aside, "target"))
        os.symlink(target, linked)
        note(target, FREE, "1", now, DEAD)
        rows = recover(folder, code=125)
        assert harness.label(target) == DEAD
    finally:
        shutil.rmtree(aside)
    assert {name: rows[paths[name]]["action"] for name in cases} == {name: case[4] for name, case in cases.items()}
    assert {name: harness.label(paths[name]) for name in cases} == {name: case[5] for name, case in cases.items()}
    kept = {name for name in cases if notes(paths[name])}
    assert kept == {"no count", "no label"}
    again = harness.confined("recover", "--libvirt", folder)
    assert again.returncode == 125
    assert again.stdout == ""
    assert len(list(harness.lines(again.stderr))) == 2


def test_a_process_that_cannot_see_the_notes_says_so(folder: str) -> None:
    (path,) = images(folder, "x")
    note(path, FREE, "1", boot_time(), DEAD)
    for command in (
        [harness.LAUNCH, "recover", "--libvirt", path],
        [
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-sys_admin",
            harness.COMMAND,
            "recover",
            "--libvirt",
            path,
        ],
        ["runuser", "-u", "nobody", "--", harness.COMMAND, "recover", "--libvirt", path],
    ):
        done = harness.run(*command, check=False)
        assert done.returncode == 125, command
        assert "CAP_SYS_ADMIN" in done.stderr, done.stderr
        assert (harness.label(path), notes(path)[COUNT]) == (DEAD, "1")
    assert recover(path)[path]["action"] == "restored"


@pytest.mark.usefixtures("libvirtd")
def test_libvirts_own_xml_runs_and_is_imported(folder: str) -> None:
    (image,) = images(folder, "a,b.img")
    domain = virtd.Domain(folder, "imported", [image])
    with open(domain.xml, encoding="utf-8") as file:
        text = file.read()
    serial = f"<serial type='file'><source path='{domain.log}'/></serial>"
    assert serial in text
    with open(domain.xml, "w", encoding="utf-8") as file:
        file.write(text.replace(serial, "<serial type='pty'/>"))
    harness.run("virsh", "define", domain.xml)
    try:
        dumped = harness.run("virsh", "dumpxml", "imported").stdout
    finally:
        harness.run("virsh", "undefine", "imported")
    done = harness.confined("import", "-", stdin=None, input=dumped)
    assert done.returncode == 0
    assert "devices/controller" in done.stderr
    spec = os.path.join(folder, "imported.yaml")
    with open(spec, "w", encoding="utf-8") as file:
        file.write(done.stdout)
    vm = harness.boot(harness.COMMAND, "run", domain.xml)
    assert harness.short_label(image).startswith("svirt_image_t:s0:c")
    assert harness.power_off(vm) == 0
    assert harness.short_label(image) == harness.UNUSED
    plan = json.loads(harness.confined("plan", "--json", spec).stdout)
    assert (plan["resources"][0]["path"], plan["refusals"]) == (image, [])
