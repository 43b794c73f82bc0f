"""Shared folders: a tree is labelled where the user says so and put back whole; all else keeps its labels."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Callable

ODD = b"new\nline \xff"
HOME = "unconfined_u:object_r:user_home_t:s0"


def tree_of(folder: str, name: str, files: int = 2) -> str:
    """Make a tree of files with labels of more than one kind, links, a pipe, and names that are no text."""
    path = os.path.join(folder, name)
    os.makedirs(os.path.join(path, "below", "deeper"))
    for number in range(files):
        _write(os.path.join(path, f"file{number}"), b"data\n")
    _write(os.path.join(path, "below", "deeper", "theirs"), b"data\n")
    _write(os.path.join(os.fsencode(path), ODD), b"data\n")
    os.symlink("/etc/passwd", os.path.join(path, "link"))
    os.symlink("/etc", os.path.join(path, "folder"))
    os.mkfifo(os.path.join(path, "pipe"))
    subprocess.run(["restorecon", "-RF", path], check=True)
    harness.run("chcon", "-h", HOME, os.path.join(path, "below"), os.path.join(path, "below", "deeper", "theirs"))
    return path


def _write(path: str | bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def labels(path: str) -> dict[str, str]:
    """Return the label of everything in a tree, and of the tree itself."""
    found = {path: harness.label(path)}
    for folder, folders, files in os.walk(path):
        found |= {os.path.join(folder, name): harness.label(os.path.join(folder, name)) for name in (*folders, *files)}
    return found


def share(path: str, **more: Any) -> dict[str, Any]:
    """Return a share of a spec, by QEMU itself and labelled."""
    return {"dir": path, "tag": os.path.basename(path), "driver": "9p", "relabel": True} | more


def test_a_tree_that_two_vms_read_is_put_back_by_the_last(
    make_image: Callable[[str], harness.Image], folder: str
) -> None:
    first, second = make_image("a"), make_image("b")
    path = tree_of(folder, "docs")
    before = labels(path)
    for image in (first, second):
        image.write_spec(shares=[share("docs", readonly=True)])
    vm = harness.boot_spec(first)
    new = os.path.join(path, "new")
    _write(new, b"for the second\n")
    harness.run("chcon", HOME, new)
    other = harness.boot_spec(second)
    assert {harness.short_label(name) for name in before if not name.endswith("pipe")} == {"virt_content_t:s0"}
    assert harness.power_off(vm) == 0
    assert {harness.short_label(name) for name in before if not name.endswith("pipe")} == {"virt_content_t:s0"}
    assert harness.power_off(other) == 0
    assert labels(path) == before | {new: HOME}


def test_killed_while_it_labels_all_comes_back(image: harness.Image, folder: str) -> None:
    """The bar on a terminal says when: the launcher is in the middle of it."""
    path = tree_of(folder, "work", files=1500)
    before = labels(path)
    image.write_spec(shares=[share("work")])
    mine, its = pty.openpty()
    process = harness.Process([harness.COMMAND, "run", image.spec], stderr=its)
    os.close(its)
    seen = b""
    while b" of 1,50" not in seen:
        assert select.select([mine], [], [], harness.PATIENCE)[0]
        seen += os.read(mine, 4096)
    assert f"labelling {path}: ".encode() in seen
    victims = [process.pid, *_children(process.pid), *harness.watchers()]
    for victim in victims:
        harness.kill(victim, signal.SIGSTOP)
    changed = [name for name, label in labels(path).items() if label != before[name]]
    for victim in victims:
        harness.kill(victim)
    process.wait()
    os.close(mine)
    assert 0 < len(changed) < len(before)
    assert harness.journals() != []
    done = harness.confined("recover")
    assert done.stdout == "a: labels put back\n", done.stderr
    assert labels(path) == before
    # and in a pipe nothing is said
    vm = harness.boot_spec(image)
    assert vm.popen.stderr is not None
    vm.send(b"q")
    assert vm.popen.stderr.read() == b""
    vm.wait()
    assert labels(path) == before


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
