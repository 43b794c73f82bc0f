"""Xen's domains without a Xen: their specs, xl.cfg, the plan, and what xl prints. A script stands in for xl."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import flask, lsm, survey, xl
from confined_qemu.labels import domains, journal, restore, statefolders
from confined_qemu.launch import pairs, spawn, xen
from confined_qemu.launch import xl as creating
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError, SpecError, ValueProblem
from confined_qemu.model.facts import SelinuxFacts, SelinuxMode
from confined_qemu.model.invocation import Confinement, Seclabel, SeclabelType
from confined_qemu.model.lean import replace
from confined_qemu.model.record import Record, decode, encode
from confined_qemu.model.xen import (
    EXIT,
    FlaskMode,
    LiveDomain,
    Shutdown,
    XenDisk,
    XenDomain,
    XenFacts,
    XenPlan,
    XenType,
)
from confined_qemu.plan import xenplan, xlcfg
from confined_qemu.read.spec import loader
from tests import fakes
from tests.worlds import CALLER, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from confined_qemu.model.mcs import Pair
    from confined_qemu.read.spec.xenvm import XenVM

UUID = "00000000-0000-4000-8000-000000000001"
IMAGE = "system_u:object_r:xen_image_t:s0"
DISK = XenDisk("/var/lib/xen/images/a.img", "xvda", readonly=False, source="disks[0].file")
WEB = XenDomain("web", XenType.PVH, "/boot/vmlinux", "/boot/initrd", 'console=hvc0 root="/dev/xvda"', 256, 2, (DISK,))
HERE = XenFacts(control=True, flask=FlaskMode.ENFORCING, categories=256, uuid=UUID)


class Flask:
    """A policy of Flask's that knows one type, at any level or none."""

    def __init__(self, categories: int = 256, *, hidden: bool = False) -> None:
        self.count, self.hidden = categories, hidden

    def knows(self, label: str) -> bool:
        found = Context.parse(label)
        return found.type == "domU_t" and (found.range is not None) == bool(self.count)

    def categories(self) -> int:
        return self.count

    def hides_one(self, listed: Iterable[int]) -> bool:
        return self.hidden and bool(list(listed))


# ---- specs

GOOD = "hypervisor: xen\nname: web\nkernel: vmlinux\n"


def read(text: str) -> XenDomain:
    """Return the domain of a spec in /srv."""
    vm: Any = loader.load(text, "x.yaml")
    checked: XenVM = vm
    return checked.domain("/srv")


def test_a_spec_becomes_a_domain() -> None:
    text = GOOD + (
        "type: pv\ninitrd: /boot/initrd\ncmdline: quiet\nmemory: 1G\ncpus: 2\n"
        "disks: [{file: a.img, format: raw}, {file: /b, format: raw, readonly: yes}]\n"
        "seclabel: {type: static, label: 'system_u:system_r:domU_t'}\nconfinement: auto\n"
    )
    disks = (
        XenDisk("/srv/a.img", "xvda", readonly=False, source="disks[0].file"),
        XenDisk("/b", "xvdb", readonly=True, source="disks[1].file"),
    )
    label = Seclabel(SeclabelType.STATIC, label=Context.parse("system_u:system_r:domU_t"))
    assert read(text) == XenDomain(
        "web", XenType.PV, "/srv/vmlinux", "/boot/initrd", "quiet", 1024, 2, disks, label, Confinement.AUTO
    )
    assert read(GOOD) == XenDomain("web", XenType.PVH, "/srv/vmlinux")


def test_a_reader_of_qemus_specs_takes_no_domain() -> None:
    with pytest.raises(SpecError, match="expected qemu, got xen"):
        loader.parse(GOOD, "x.yaml")
    assert loader.parse("hypervisor: qemu\nname: x", "x.yaml").name == "x"


# ---- xl.cfg

_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
"""xl's own rule for a string (libxlu_cfg_l.l)."""


def unquoted(text: str) -> str:
    """Return what xl reads from a string: of C's escapes only those that are written here are known."""
    found = _STRING.fullmatch(text)
    assert found is not None, text
    assert set(re.findall(r"\\(.)", found[1])) <= {'"', "\\"}
    return re.sub(r"\\(.)", r"\1", found[1])


def test_each_byte_is_read_as_it_was_written_or_refused() -> None:
    for byte in range(256):
        check_byte(byte)


def check_byte(byte: int) -> None:
    character = os.fsdecode(bytes([byte]))
    text = f"a{character}b"
    if byte < 0x20 or byte >= 0x7F:  # alone, a byte above 0x7f is not UTF-8
        with pytest.raises(ValueProblem, match=r"which xl\.cfg cannot hold"):
            xlcfg.quoted(text, "cmdline")
    else:
        assert unquoted(xlcfg.quoted(text, "cmdline")) == text
    good = character.isascii() and (character.isalnum() or character in "/._+@=~-")
    path = f"/srv/{text}"
    domain = replace(WEB, disks=(replace(DISK, path=path),))
    if good:
        assert f'target={path}"' in xlcfg.config(domain, "u:r:t", UUID, {path: path})
    else:
        with pytest.raises(ValueProblem, match="hand a disk's path to a shell"):
            xlcfg.config(domain, "u:r:t", UUID, {path: path})


@given(st.text())
def test_every_text_is_one_string_on_one_line_or_refused(text: str) -> None:
    try:
        written = xlcfg.quoted(text, "cmdline")
    except ValueProblem:
        assert not text.isprintable()
        return
    assert unquoted(written) == text
    assert "\n" not in written


@pytest.mark.parametrize("key", ["name", "kernel", "initrd", "cmdline"])
def test_no_key_takes_a_line_of_its_own(key: str) -> None:
    hostile = '/x"\nseclabel = "system_u:system_r:dom0_t'
    changes: dict[str, Any] = {key: hostile}
    domain = replace(WEB, **changes)
    with pytest.raises(ValueProblem, match=key):
        xlcfg.config(domain, "u:r:t", UUID, {DISK.path: DISK.path})


# ---- the plan


def planned(domain: XenDomain = WEB, xen: XenFacts = HERE, flask: Flask | None = None, **world: Any) -> XenPlan:
    """Return a domain's plan on a host."""
    files = {path: {"label": IMAGE} for path in (disk.path for disk in domain.disks)}
    files |= world.pop("files", {})
    host = World(in_domain=False, files=files, **world)
    wanted = xenplan.invocation_of(domain)
    more = [replace(wanted.resources[0], path=path) for path in (domain.kernel, domain.initrd) if path]
    facts = host.facts(replace(wanted, resources=(*wanted.resources, *more)))
    return xenplan.xen_plan(domain, facts, xen, flask or Flask(xen.categories), host.rules())


def test_a_plan_is_this(golden: Callable[[str, str], None]) -> None:
    import json

    golden("xen/plan.txt", planned().describe() + "\n")
    golden("xen/plan.json", json.dumps(planned().to_json(), indent=1) + "\n")


def test_without_categories_the_label_has_no_level_and_the_image_still_a_pair() -> None:
    made = planned(xen=replace(HERE, categories=0))
    assert made.label == "system_u:system_r:domU_t"
    assert "xen_image_t:s0:c101,c202" in made.steps[0].describe()
    assert any("has no categories" in line for line in made.warnings)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"control": False}, "not Xen's dom0"),
        ({"flask": FlaskMode.DISABLED}, "this Xen has no Flask"),
        ({"flask": FlaskMode.PERMISSIVE}, "Flask is permissive"),
        ({"hidden": True}, "Flask keeps dom0 from seeing a domain"),
        (
            {"domains": (LiveDomain("web", 3, "x", 1, "-b----", None),)},
            "a domain named web is there already (number 3)",
        ),
    ],
)
def test_what_xen_is_not(change: dict[str, Any], why: str) -> None:
    assert any(why in line for line in planned(xen=replace(HERE, **change)).refusals)
    assert planned().refusals == ()


def test_auto_takes_a_permissive_flask_and_says_so_and_never_none() -> None:
    domain = replace(WEB, confinement=Confinement.AUTO)
    made = planned(domain, replace(HERE, flask=FlaskMode.PERMISSIVE))
    assert made.refusals == ()
    assert made.warnings == (xenplan.WATCHING,)
    assert planned(domain, replace(HERE, flask=FlaskMode.DISABLED)).refusals == (xenplan.NO_FLASK,)


def test_dom0_must_label_images() -> None:
    assert any("SELinux is disabled in dom0" in line for line in planned(selinux="disabled").refusals)
    assert any("SELinux is permissive in dom0" in line for line in planned(selinux="permissive").warnings)


def test_an_image_that_a_dead_domain_left_goes_back_to_the_types_own_label() -> None:
    made = planned(files={DISK.path: {"label": f"{IMAGE}:c5,c6"}})
    assert made.refusals == ()
    assert made.steps[0].describe().endswith(f"at the end {IMAGE}")


@pytest.mark.parametrize(("path", "kind"), [(WEB.kernel, "missing"), ("/boot/initrd", "dir")])
def test_a_kernel_that_is_none(path: str, kind: str) -> None:
    assert any(path in line for line in planned(files={path: {"kind": kind}}).refusals)


# ---- what xl says

LIST = (
    "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID"
    "                            Reason-Code\tSecurity Label\n"
    "Domain-0                                     0  1536     2     r-----     230.6 "
    "00000000-0000-0000-0000-000000000000        - system_u:system_r:dom0_t:s0\n"
    f"web                                          4   128     1     --p---       0.0 {UUID}        - "
    "system_u:system_r:domU_t:s0:c1,c2\n"
    f"a b  7 -                                     5   128     1     ---sc-       1.0 {UUID[:-1]}2        3 -\n"
)


def test_a_listing_is_read_from_its_end() -> None:
    dom0, web, strange = xl.parsed(LIST)
    assert (dom0.number, dom0.label) == (0, "system_u:system_r:dom0_t:s0")
    assert web == LiveDomain("web", 4, UUID, 128, "--p---", "system_u:system_r:domU_t:s0:c1,c2")
    assert (strange.name, strange.number, strange.label) == ("a b  7 -", 5, None)
    with pytest.raises(HostError, match="not understood"):
        xl.parsed(LIST + "nonsense\n")


@pytest.fixture
def fake_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that makes xl a shell script; its `$1` is the command. It returns the folder of its notes."""

    def make(script: str) -> Path:
        program = tmp_path / "xl"
        program.write_text(f'#!/bin/sh\ncd {tmp_path}\necho "$*" >>calls\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(xl, "PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path

    return make


@pytest.mark.touches_host
@pytest.mark.parametrize(
    ("words", "code", "mode"),
    [
        ("echo Enforcing", 1, FlaskMode.ENFORCING),
        ("echo Permissive", 0, FlaskMode.PERMISSIVE),
        ("echo Flask XSM Disabled", 255, FlaskMode.DISABLED),
    ],
)
def test_what_flask_does_is_what_is_printed(
    fake_xl: Callable[[str], Path], words: str, code: int, mode: FlaskMode
) -> None:
    fake_xl(f"{words}; exit {code}")
    assert xl.flask_mode() is mode


@pytest.mark.touches_host
@pytest.mark.parametrize("script", ["exit 0", "echo Failed to get enforcing mode >&2; exit 255", "echo Enforcing?"])
def test_what_could_not_be_read_is_no_mode(fake_xl: Callable[[str], Path], script: str) -> None:
    fake_xl(script)
    with pytest.raises(HostError, match="cannot be read"):
        xl.flask_mode()


@pytest.mark.touches_host
def test_an_xl_that_does_not_answer_is_left(fake_xl: Callable[[str], Path]) -> None:
    fake_xl("exec sleep 1000")
    with pytest.raises(HostError, match=r"did not answer(.|\n)*xenstored"):
        xl.run("list", limit=0.2)


@pytest.mark.touches_host
def test_a_dead_xenstored_is_told_at_once_and_one_that_is_not_seen_is_left_to_xl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "socket")
    monkeypatch.setattr(xl, "_XENSTORED", path)
    assert xl.xenstored() is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert "Connection refused" in (xl.xenstored() or "")
        listener.listen()
        assert xl.xenstored() is None


# ---- a launch

CREATE = """
case $1 in
create)
    touch made
    echo "Parsing config from $4" >&2
    cat "$4" >config
    echo "Waiting for domain web (domid 4) to die [pid 9]" >&2
    until [ -e unpaused ] || [ -e destroyed ]; do sleep 0.05; done
    head -n 1 listing >gone
    [ -e destroyed ] || mv gone listing
    echo "END" >&2;;
list) cat listing;;
unpause) touch unpaused;;
destroy) touch destroyed; head -n 1 listing >gone; mv gone listing;;
esac
"""


def launched(
    folder: Path,
    end: str,
    *,
    label: str = "system_u:system_r:domU_t:s0:c1,c2",
    say: Callable[[str], None] = lambda _: None,
) -> Shutdown:
    """Follow a domain that the script ends with these words."""
    (folder / "listing").write_text(LIST)
    creation = creating.Creation()
    plan = XenPlan("web", XenType.PVH, UUID, label, None, 'name = "web"\n')
    live = os.open(os.devnull, os.O_RDONLY)
    script = folder / "xl"
    script.write_text(script.read_text().replace("END", end))
    try:
        with creation.listening():
            return creation.follow(plan, live, say)
    finally:
        os.close(live)


@pytest.mark.touches_host
@pytest.mark.parametrize(
    ("words", "ended", "code"),
    [
        ("Domain 4 has shut down, reason code 0 0x0", Shutdown.POWEROFF, 0),
        ("Domain 4 has shut down, reason code 1 0x1", Shutdown.REBOOT, 1),
        ("Domain 4 has shut down, reason code 3 0x3", Shutdown.CRASH, 3),
        ("Domain 4 has been destroyed.", Shutdown.DESTROYED, 137),
    ],
)
def test_a_domain_runs_after_its_label_was_compared(
    fake_xl: Callable[[str], Path], words: str, ended: Shutdown, code: int
) -> None:
    folder = fake_xl(CREATE)
    assert launched(folder, words) is ended
    assert EXIT[ended] == code
    calls = (folder / "calls").read_text().splitlines()
    assert calls[0].startswith("create -F -p /proc/self/fd/")
    assert calls[1:] == ["list -v", "unpause 4"]
    assert (folder / "config").read_text() == 'name = "web"\n'


@pytest.mark.touches_host
def test_a_domain_with_another_label_never_runs(fake_xl: Callable[[str], Path]) -> None:
    folder = fake_xl(CREATE)
    with pytest.raises(HostError, match=r"label is system_u:system_r:domU_t:s0:c1,c2, and .*c3,c4 was asked for"):
        launched(folder, "", label="system_u:system_r:domU_t:s0:c3,c4")
    assert not (folder / "unpaused").exists()


@pytest.mark.touches_host
def test_an_end_that_xl_does_not_tell_is_an_error(fake_xl: Callable[[str], Path]) -> None:
    with pytest.raises(HostError, match="did not say how"):
        launched(fake_xl(CREATE), "")


@pytest.mark.touches_host
def test_a_signal_ends_the_wait_and_xl(fake_xl: Callable[[str], Path]) -> None:
    folder = fake_xl(CREATE)
    with pytest.raises(creating.Ended) as caught:
        launched(folder, "", say=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.number == signal.SIGTERM


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Labels:
    """A dom0 that enforces: labels in memory, state in a folder, and no watcher."""
    labels = fakes.install_labels(monkeypatch)
    labels.default = Context.parse(IMAGE)
    selinux = SelinuxFacts(SelinuxMode.ENFORCING, CALLER, CALLER, fakes.DEBIAN)
    monkeypatch.setattr(survey, "selinux", lambda **_: selinux)
    # this machine's file systems may take no labels
    monkeypatch.setattr(survey, "files", lambda names, facts: {name: survey.file(name, facts) for name in names})
    monkeypatch.setattr(lsm, "own_context", lambda: CALLER)
    monkeypatch.setattr(lsm, "denied", lambda *_: ())
    monkeypatch.setattr(lsm, "default_label", lambda *_: Context.parse(IMAGE))
    monkeypatch.setattr(statefolders, "state_folder", lambda: str(tmp_path / "state"))
    monkeypatch.setattr(xen, "look", lambda: (HERE, Flask()))
    monkeypatch.setattr(flask, "loaded", Flask)
    monkeypatch.setattr(spawn, "watcher", lambda *_: spawn.Watcher(_ready()))
    return labels


def _ready() -> int:
    mine, its = os.pipe()
    os.write(its, b"r")
    os.close(its)
    return mine


@pytest.mark.touches_host
@pytest.mark.parametrize("signalled", [False, True])
def test_an_image_is_labelled_while_its_domain_runs_and_not_after(
    fake_xl: Callable[[str], Path], world: fakes.Labels, tmp_path: Path, *, signalled: bool
) -> None:
    script = CREATE.replace("END", "Domain 4 has shut down, reason code 0 0x0")
    # by itself it would end between the signal and the look at what is left of it
    folder = fake_xl(script.replace("[ -e unpaused ] || ", "") if signalled else script)
    for name in ("kernel", "a.img"):
        (tmp_path / name).write_bytes(b"x")
    disk = replace(DISK, path=str(tmp_path / "a.img"))
    domain = XenDomain("web", XenType.PVH, str(tmp_path / "kernel"), disks=(disk,))
    seen: list[str] = []
    reserve = pairs.reserve

    def listed(*words: Any) -> Pair:
        pair = reserve(*words)
        (folder / "listing").write_text(LIST.replace(":s0:c1,c2", f":{pair.level()}"))
        return pair

    def say(_: str) -> None:
        seen.append(str(world.of(disk.path)))
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "reserve", listed)
        planned = xen.dry_run(domain)
        assert planned.refusals == ()
        if signalled:
            with pytest.raises(creating.Ended):
                xen.run(domain, lambda _: None, say)
        else:
            assert xen.run(domain, lambda _: None, say) is Shutdown.POWEROFF
    assert re.fullmatch(rf"{IMAGE}:c\d+,c\d+", seen[0])
    assert str(world.of(disk.path)) == IMAGE
    assert ("destroy 4" in (folder / "calls").read_text()) is signalled


# ---- the journal, and what a killed launcher left


def record(**values: Any) -> Record:
    """Return a record of a domain."""
    context = Context.parse("system_u:system_r:domU_t:s0:c1,c2")
    return Record("web", "this-boot", 7, 8, "xen", context, (), static=True, **values)


def test_a_domain_is_in_the_journal_and_other_journals_are_as_they_were() -> None:
    assert decode(encode(record(domain=UUID))) == record(domain=UUID)
    assert "domain" not in encode(record())
    assert decode(encode(record())) == record()


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A journal of a dead launcher's domain; this process is root."""
    fakes.install_labels(monkeypatch)
    fakes.install_processes(monkeypatch)
    monkeypatch.setattr(flask, "loaded", Flask)
    folder = tmp_path / "journals"
    folder.mkdir(mode=0o700)
    path, descriptor = journal.write(str(folder), record(domain=UUID))
    os.close(descriptor)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


@pytest.mark.touches_host
def test_a_domain_is_gone_before_its_labels_go_back(fake_xl: Callable[[str], Path], left: str) -> None:
    folder = fake_xl(CREATE)
    (folder / "listing").write_text(LIST)
    done = restore.restore(left)
    assert done is not None
    assert done.failed == ()
    assert (folder / "calls").read_text().splitlines() == ["list -v", "destroy 4", "list -v"]
    assert not os.path.exists(left)


@pytest.mark.touches_host
def test_a_domain_that_cannot_be_destroyed_keeps_its_labels_and_is_told(
    fake_xl: Callable[[str], Path], left: str
) -> None:
    folder = fake_xl("case $1 in list) cat listing;; destroy) echo 'Permission denied' >&2; exit 1;; esac")
    (folder / "listing").write_text(LIST)
    done = restore.restore(left)
    assert done is not None
    assert "the domain web (4) cannot be destroyed: Permission denied" in str(done.failed[0])
    assert os.path.exists(left)
    denials = "".join(f"(XEN) avc:  denied  {{ destroy }} for source=d0 target=d{one} tclass=x\\n" for one in (4, 44))
    fake_xl(f"case $1 in list) cat listing;; destroy) exit 1;; dmesg) printf '{denials}';; esac")
    done = restore.restore(left)
    assert done is not None
    assert "cannot be destroyed: avc:  denied  { destroy } for source=d0 target=d4 tclass=x;" in str(done.failed[0])


@pytest.mark.touches_host
def test_a_domain_that_is_not_listed_may_be_one_that_flask_hides(
    fake_xl: Callable[[str], Path], left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_xl(CREATE)
    (folder / "listing").write_text(LIST.replace(UUID, UUID[:-1] + "3"))
    monkeypatch.setattr(flask, "loaded", lambda: Flask(hidden=True))
    done = restore.restore(left)
    assert done is not None
    assert "which may be web: its images keep their labels" in str(done.failed[0])
    assert os.path.exists(left)
    monkeypatch.setattr(flask, "loaded", Flask)
    assert restore.restore(left) is not None
    assert not os.path.exists(left)


def test_another_users_journal_destroys_no_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="which only root starts"):
        domains.end("web", UUID)
