"""Domains at labels of their own: images labelled while they run, and back however they end."""

from __future__ import annotations

import json
import os
import signal

import pytest

from integration.suite_xen import dom0
from integration.suite_xen.dom0 import Spec


@pytest.mark.parametrize("kind", ["pvh", "pv"])
def test_a_guest_writes_its_disk_and_powers_off(folder: str, kind: str) -> None:
    spec = Spec(folder, kind, "write", {"type": kind})
    started = spec.start()
    assert dom0.level(dom0.label(spec.image))
    assert started.end() == 0, started.said
    with open(spec.image, "rb") as file:
        assert file.read(18) == b"the guest was here"
    assert dom0.label(spec.image) == dom0.UNUSED


def test_two_domains_and_their_images_have_pairs_of_their_own(folder: str) -> None:
    first, second = Spec(folder, "first"), Spec(folder, "second")
    runs = [first.start(), second.start()]
    labels = dom0.domains()
    pairs = {name: dom0.level(label) for name, label in labels.items()}
    assert labels == {name: f"system_u:system_r:domU_t:{pair}" for name, pair in pairs.items()}
    assert sorted(pairs) == ["first", "second"]
    assert pairs["first"] != pairs["second"]
    for spec in (first, second):
        assert dom0.label(spec.image) == f"xen_image_t:{pairs[spec.name]}"
        assert labels[spec.name] in dom0.confined("ps").stdout
    rows = json.loads(dom0.confined("ps", "--json").stdout)["vms"]
    assert [(row["name"], row["accel"], row["wall"], row["context"], row["images"]) for row in rows] == [
        (spec.name, "xen", "flask", labels[spec.name], [spec.image]) for spec in (first, second)
    ]
    again = Spec(folder, "third", keys={"disks": [{"file": first.image, "format": "raw"}]}).write()
    assert "in use by the VM first" in dom0.refused("run", again)
    # one by a signal to its launcher, as ^C sends it; one from another terminal
    assert runs[0].end(signal.SIGINT) == -signal.SIGINT
    assert list(dom0.domains()) == ["second"]
    assert dom0.label(first.image) == dom0.UNUSED
    assert dom0.label(second.image) == f"xen_image_t:{pairs['second']}"
    dom0.run("xl", "destroy", "second")
    assert runs[1].end() == 137
    assert "destroyed" in runs[1].said
    assert dom0.label(second.image) == dom0.UNUSED


@pytest.mark.parametrize(("task", "code"), [("reboot", 1), ("crash", 3)])
def test_a_reboot_and_a_crash_are_told_apart(folder: str, task: str, code: int) -> None:
    started = Spec(folder, task, task).start()
    assert started.end() == code
    assert f"the domain ended: {task}" in started.said
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_a_killed_launcher_takes_its_domain_with_it(folder: str) -> None:
    started = Spec(folder, "killed").start()
    pair = dom0.level(dom0.domains()["killed"])
    assert dom0.label(started.spec.image) == f"xen_image_t:{pair}"
    started.end(signal.SIGKILL)
    dom0.until("its labels are back", lambda: dom0.label(started.spec.image) == dom0.UNUSED)
    assert dom0.domains() == {}


def test_a_signal_while_xl_builds_the_domain_ends_both(folder: str) -> None:
    started = Spec(folder, "half", "write").launch()  # Linux, which takes xl some seconds
    dom0.until("it is there", dom0.domains)
    assert started.end(signal.SIGTERM) == -signal.SIGTERM
    assert "runs as domain" not in started.said
    assert dom0.domains() == {}
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_a_domain_whose_xl_is_killed_is_destroyed(folder: str) -> None:
    started = Spec(folder, "alone").start()
    (tool,) = dom0.run("pgrep", "-x", "-P", str(started.process.pid), "xl").stdout.split()
    os.kill(int(tool), signal.SIGKILL)
    assert started.end() == 125
    assert "did not say how the domain did" in started.said
    assert dom0.domains() == {}
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_two_domains_read_one_image(folder: str) -> None:
    first = Spec(folder, "one")
    first.write()
    shared = {"disks": [{"file": first.image, "format": "raw", "readonly": True}]}
    runs = [Spec(folder, name, keys=shared, disk=False).start() for name in ("one", "two")]
    given = dom0.label(first.image)
    assert given.endswith(":s0")
    assert runs[0].end(signal.SIGTERM) == -signal.SIGTERM
    assert list(dom0.domains()) == ["two"]
    assert dom0.label(first.image) == given
    assert runs[1].end(signal.SIGTERM) == -signal.SIGTERM
    assert dom0.label(first.image) == dom0.UNUSED


def test_recover_destroys_what_a_killed_launcher_and_a_killed_watcher_left(folder: str) -> None:
    started = Spec(folder, "left").start()
    (watcher,) = dom0.watchers()
    os.kill(watcher, signal.SIGKILL)
    started.end(signal.SIGKILL)
    assert list(dom0.domains()) == ["left"]
    assert dom0.label(started.spec.image) != dom0.UNUSED
    assert "a crash left labels of 1 VM(s)" in dom0.confined("check").stdout
    done = dom0.confined("recover")
    assert (done.returncode, done.stdout) == (0, "left: labels put back\n"), done.stderr
    assert dom0.domains() == {}
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_a_static_label_is_the_domains_and_its_image_still_has_a_pair(folder: str) -> None:
    label = "system_u:system_r:domU_t:s0:c7"
    spec = Spec(folder, "static", keys=dom0.static(label))
    started = spec.start()
    assert dom0.domains() == {"static": label}
    assert dom0.level(dom0.label(spec.image))
    assert started.end(signal.SIGTERM) == -signal.SIGTERM
    assert dom0.domains() == {}
    assert dom0.label(spec.image) == dom0.UNUSED


def test_a_domain_that_cannot_be_destroyed_keeps_its_images_labels_and_is_told(folder: str) -> None:
    label = "system_u:system_r:kept_t:s0:c1,c2"
    started = Spec(folder, "kept", keys=dom0.static(label)).start()
    given = dom0.label(started.spec.image)
    with dom0.switched("kept_doms_locked"):
        assert started.end(signal.SIGTERM) == 125
        assert "cannot be destroyed: avc:  denied  { destroy }" in started.said
        assert "its images keep their labels" in started.said
        dom0.until("its watcher has tried it too", lambda: not dom0.watchers())
        assert list(dom0.domains().values()) == [label]
        assert dom0.label(started.spec.image) == given
        done = dom0.confined("recover")
        assert done.returncode != 0
        assert "cannot be destroyed" in done.stderr
        assert dom0.label(started.spec.image) == given
    assert dom0.confined("recover").stdout == "kept: labels put back\n"
    assert dom0.domains() == {}
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_a_domain_that_flask_hides_is_not_taken_for_one_that_has_ended(folder: str) -> None:
    started = Spec(folder, "hidden", keys=dom0.static("system_u:system_r:prot_domU_t:s0:c1,c2")).start()
    given = dom0.label(started.spec.image)
    assert dom0.level(given)
    # it may neither be seen nor destroyed now, which is what Xen's sample policy does
    with dom0.switched("prot_doms_locked"):
        assert dom0.domains() == {}
        assert "fail  domains: Flask keeps dom0 from seeing a domain" in dom0.confined("check").stdout
        assert "Flask keeps dom0 from seeing a domain" in dom0.refused("run", Spec(folder, "next", "poweroff").write())
        assert started.end(signal.SIGTERM) == 125
        assert "which may be hidden: its images keep their labels" in started.said
        dom0.until("its watcher has tried it too", lambda: not dom0.watchers())
        assert dom0.label(started.spec.image) == given
    assert dom0.confined("recover").stdout == "hidden: labels put back\n"
    assert dom0.domains() == {}
    assert dom0.label(started.spec.image) == dom0.UNUSED


def test_what_the_plan_says_is_done_and_changes_nothing(folder: str) -> None:
    spec = Spec(folder, "planned")
    path = spec.write()
    done = dom0.confined("plan", path)
    assert done.returncode == 0, done.stdout
    for words in ("xl create -F -p", "xen_image_t:s0:c", 'name = "planned"', 'on_reboot = "destroy"', "xl unpause"):
        assert words in done.stdout
    assert dom0.label(spec.image) == dom0.UNUSED
    assert f"ok    {path}: can be started, xen, system_u:system_r:domU_t:s0:c" in dom0.confined("check", path).stdout
