"""Decisions about a whole VM; what its texts look like is in tests/golden/plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import helperfacts, lsm, mounts
from confined_qemu.model import hostpaths, policynames
from confined_qemu.model.context import Context
from confined_qemu.model.facts import Mount
from confined_qemu.model.helper import Helper, HelperKind
from confined_qemu.model.invocation import Accel, Confinement, Invocation, Seclabel, SeclabelType
from confined_qemu.model.landlock import LandlockFacts, Scope
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import Plan
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.model.resource import Access, Listener, Resource, Role, Sharing
from confined_qemu.model.steps import AttachTap, Bind, Connect, Create, MakeFolder, Relabel, Relay, Retag, Sweep
from confined_qemu.plan.planner import plan
from confined_qemu.read.qemu.reader import read
from tests import strategies
from tests.worlds import PAIR, World

if TYPE_CHECKING:
    from pathlib import Path


def made(world: World | None = None, **more: Any) -> Plan:
    invocation = Invocation("vm", "qemu-system-x86_64", more.pop("arguments", ()), **more)
    world = world or World()
    return plan(invocation, world.facts(invocation), world.rules())


DISK = Resource("a.img", Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disk")


# ---- accelerator


@pytest.mark.parametrize(
    ("wanted", "kvm", "chosen", "refused"),
    [
        (Accel.AUTO, True, "kvm", False),
        (Accel.AUTO, False, "tcg", False),
        (Accel.KVM, True, "kvm", False),
        (Accel.KVM, False, "kvm", True),
        (Accel.TCG, True, "tcg", False),
        (Accel.TCG, False, "tcg", False),
    ],
)
@pytest.mark.parametrize("confinement", [Confinement.SELINUX, Confinement.NONE])
def test_accelerator(wanted: Accel, kvm: bool, chosen: str, refused: bool, confinement: Confinement) -> None:
    found = made(World(kvm=kvm), accel=wanted, arguments=("-accel", "?"), accel_index=1, confinement=confinement)
    assert found.accel.chosen == chosen
    assert found.accel.tcg is (chosen == "tcg")
    assert found.arguments == ("-accel", chosen)
    assert bool(found.refusals) is refused
    assert not refused or "\n  or use: accel: tcg" in found.refusals[0]


def test_a_command_lines_own_accelerator_is_left_in_it() -> None:
    assert made(World(kvm=True), accel=Accel.TCG, arguments=("-accel", "tcg")).arguments == ("-accel", "tcg")


# ---- confinement


@pytest.mark.parametrize("selinux", ["enforcing", "permissive", "disabled"])
@pytest.mark.parametrize("confinement", Confinement)
@pytest.mark.parametrize("seclabel", [SeclabelType.DYNAMIC, SeclabelType.NONE])
def test_nothing_runs_unconfined_without_a_word(selinux: str, confinement: Confinement, seclabel: SeclabelType) -> None:
    found = made(World(selinux=selinux), confinement=confinement, seclabel=Seclabel(seclabel), resources=(DISK,))
    wanted = confinement in {Confinement.SELINUX, Confinement.AUTO}
    confined = selinux != "disabled" and wanted and seclabel is SeclabelType.DYNAMIC
    # this kernel has no Landlock, which `auto` takes where SELinux does not enforce
    without = confinement is Confinement.LANDLOCK or (confinement is Confinement.AUTO and selinux != "enforcing")
    confined = confined and not without
    assert (found.process is not None) is (found.confinement == "selinux") is (found.pair is not None) is confined
    assert bool(found.steps) is confined
    assert confined or found.warnings or found.refusals
    assert bool(found.refusals) is (without or (selinux == "disabled" and confinement is Confinement.SELINUX))


@pytest.mark.parametrize("selinux", ["enforcing", "permissive", "disabled"])
@pytest.mark.parametrize("confinement", Confinement)
@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5, 6, 7, 8])
def test_landlock_holds_where_selinux_does_not_enforce(selinux: str, confinement: Confinement, abi: int) -> None:
    arguments = ("-monitor", "stdio")  # as a second wall it would be laid on without
    world = World(selinux=selinux, landlock=abi)
    found = made(world, confinement=confinement, resources=(DISK,), arguments=arguments)
    held = confinement is Confinement.LANDLOCK or (confinement is Confinement.AUTO and selinux != "enforcing")
    assert (found.landlock is not None) is (found.confinement == "landlock") is held
    assert (found.hardening is not None) is (found.confinement != "none")
    if found.landlock is not None:
        assert found.process is None
        assert found.refusals == ()
        assert found.landlock.abi == min(abi, 7)
        assert any("does not hold" in warning for warning in found.warnings) is (abi < 6)


def test_a_kernel_that_may_not_be_asked_is_no_kernel_without_landlock() -> None:
    world = World(selinux="disabled")
    invocation = Invocation("vm", "qemu-system-x86_64", ())
    facts = replace(
        world.facts(invocation), landlock=LandlockFacts(0, problem="cannot be asked: Operation not permitted")
    )
    found = plan(invocation, facts, world.rules())
    assert found.refusals == ("cannot be asked: Operation not permitted",)
    assert found.landlock is None


@pytest.mark.parametrize(
    ("wanted", "different", "why"),
    [
        (
            Resource("/usr/share/v.fd", Role.NVRAM, Access.READ_WRITE, Sharing.PRIVATE, "-drive"),
            {},
            "it is the system's own",
        ),
        (DISK, {"used": "it is mounted on /"}, "it is mounted on /"),
        (DISK, {"problem": "too many links"}, "too many links"),
    ],
)
def test_what_would_be_damaged_is_refused_by_landlock_too(
    wanted: Resource, different: dict[str, str], why: str
) -> None:
    world = World(selinux="disabled", landlock=7, files={wanted.path: different})
    [refusal] = made(world, resources=(wanted,)).refusals
    assert why in refusal


@pytest.mark.parametrize("window", [None, "gtk", "default"])
def test_a_window_on_an_x_server_reaches_its_socket_and_that_is_said(window: str | None) -> None:
    found = made(World(selinux="disabled", landlock=7), window=window, x_key="/home/u/key")
    assert found.landlock is not None
    assert bool(found.landlock.scopes & Scope.ABSTRACT_SOCKETS) is (window is None)
    assert found.landlock.scopes & Scope.SIGNALS
    assert any("an X server" in warning for warning in found.warnings) is (window is not None)
    assert any(rule.path == "/home/u/key" for rule in found.landlock.rules) is (window is not None)


def test_permissive_warns_of_what_would_be_denied_and_labels_all_the_same() -> None:
    found = made(
        World(selinux="permissive", denied=[["svirt_t", "svirt_t", "process", "execmem"]]),
        resources=(DISK,),
        confinement=Confinement.SELINUX,
    )
    assert found.refusals == ()
    assert len(found.warnings) == 2
    assert found.steps != ()


def test_a_permissive_type_is_not_taken_for_one_that_is_enforced() -> None:
    assert made(World(permissive_types=["container_t"]), resources=(DISK,)).warnings == ()
    (said,) = made(World(permissive_types=["svirt_t"]), resources=(DISK,)).warnings
    assert said.startswith("svirt_t is permissive in this policy")
    assert "semanage permissive -d svirt_t" in said


def test_a_conflict_is_refused_even_where_nothing_is_enforced() -> None:
    world = World(selinux="permissive", holders={"a.img": [["other", 5, True, None]]})
    found = made(world, resources=(DISK,), confinement=Confinement.SELINUX)
    assert "in use by the VM other" in found.refusals[0]


# ---- the launcher's domain


def test_without_the_module_that_is_all_that_is_said() -> None:
    denied = [["unconfined_t", "svirt_t", "process", "transition"], ["svirt_t", "svirt_t", "process", "execmem"]]
    found = made(World(in_domain=False, denied=denied), resources=(DISK,), require_domain=True)
    assert len(found.refusals) == 1
    assert "run: confined-qemu policy install" in found.refusals[0]
    assert [(r.path, r.context) for r in found.resources] == [("/srv/vm/a.img", None)]
    assert found.steps == ()


@pytest.mark.parametrize("required", [True, False])
def test_out_of_the_domain(required: bool) -> None:
    found = made(World(in_domain=False), require_domain=required)
    assert bool(found.refusals) is required
    assert bool(found.warnings) is not required


def test_an_emulator_that_the_domain_may_not_enter() -> None:
    world = World(
        files={"/opt/qemu": {"label": "system_u:object_r:usr_t:s0"}},
        denied=[["svirt_t", "usr_t", "file", "entrypoint"]],
    )
    invocation = Invocation("vm", "/opt/qemu", ())
    found = plan(invocation, world.facts(invocation), world.rules())
    assert "semanage fcontext -a -t qemu_exec_t '/opt/qemu' && restorecon /opt/qemu" in found.refusals[0]


def test_a_query_needs_no_execmem() -> None:
    world = World(pair=None, denied=[["svirt_t", "svirt_t", "process", "execmem"]])
    assert made(world, query=True, accel=Accel.TCG).refusals == ()


# ---- files


def test_one_file_under_two_names_is_one_step() -> None:
    again = Resource("b.img", Role.DISK, Access.READ, Sharing.CONTENT, "other")
    world = World(files={"b.img": {"same_as": "/srv/vm/a.img"}})
    found = made(world, resources=(again, DISK))
    assert len(found.steps) == 1
    assert [str(r.context) for r in found.resources] == [f"system_u:object_r:svirt_image_t:s0:{PAIR}"] * 2


# ---- sockets of others


def connecting(world: World, line: str) -> Plan:
    invocation = read("qemu", line.split())
    return plan(invocation, world.facts(invocation), world.rules())


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("-chardev socket,id=c,path=/s", ("-chardev", "socket,id=c,fd={c}")),
        ("-chardev socket,path=/s,id=c,server=off", ("-chardev", "socket,fd={c},id=c,server=off")),
        (
            "-serial unix:/s",
            ("-chardev", "socket,id=confined-serial0,fd={confined-serial0}", "-serial", "chardev:confined-serial0"),
        ),
    ],
)
def test_the_launcher_connects_where_a_vm_may_not(line: str, after: tuple[str, ...]) -> None:
    world = World(files={"/s": {"kind": "sock_file"}})
    found = connecting(world, line)
    assert found.refusals == ()
    assert [type(step) for step in found.steps] == [Connect]
    assert found.arguments == after
    assert [(str(r.resource.access), str(r.resource.sharing)) for r in found.resources] == [("connect", "unlabelled")]


def test_where_nothing_listens_qemu_says_so() -> None:
    found = connecting(World(files={"/s": {"kind": "missing"}}), "-chardev socket,id=c,path=/s")
    assert (found.refusals, found.steps) == ((), ())
    assert found.arguments == ("-chardev", "socket,id=c,path=/s")


def test_a_vm_that_nothing_confines_connects_itself() -> None:
    invocation = replace(read("qemu", ["-chardev", "socket,id=c,path=/s,,1"]), confinement=Confinement.NONE)
    found = plan(invocation, World().facts(invocation), NO_POLICY)
    assert found.arguments == ("-chardev", "socket,id=c,path=/s,,1")


TAP = "tap,id=n,ifname=t0,script=no,downscript=no"
LABEL = "system_u:object_r:tun_tap_device_t:s0"
TUN = {path: {"kind": "chr_file", "label": LABEL} for path in ("/dev/net/tun", "/dev/vhost-net")}
THERE = World(files={**TUN, "/sys/class/net/t0": {"kind": "dir"}})


@pytest.mark.parametrize(
    ("option", "given", "after", "headers"),
    [
        ("-netdev", TAP, "tap,id=n,fd={n}", True),
        ("-netdev", "type=tap,script=no,downscript=no,vnet_hdr=on,ifname=t0,vhost=on,id=n",
         "type=tap,fd={n},vhost=on,id=n", True),
        ("-netdev", f"{TAP},vnet_hdr=off", "tap,id=n,fd={n}", False),
        ("-nic", "tap,ifname=t0,script=no,downscript=no,model=e1000", "tap,fd={tap},model=e1000", True),
        ("-net", "tap,ifname=t0,script=no,downscript=no", "tap,fd={tap}", True),
        ("-netdev", '{"type": "tap", "id": "n", "ifname": "t0", "script": "no", "downscript": "no", "sndbuf": 1}',
         '{"type": "tap", "id": "n", "sndbuf": 1, "fd": "{n}"}', True),
    ],
)  # fmt: skip
def test_the_launcher_attaches_to_a_tap_device(option: str, given: str, after: str, *, headers: bool) -> None:
    invocation = read("qemu", [option, given])
    found = plan(invocation, THERE.facts(invocation), THERE.rules())
    (tap,) = invocation.taps
    assert (found.refusals, found.steps) == ((), (AttachTap(tap.name, "t0", headers),))
    assert found.arguments == (option, after)


def test_a_policy_that_lets_a_vm_open_no_tap_device_is_asked_only_where_qemu_would_open_it() -> None:
    """Fedora's: a VM may use one that it gets open."""
    invocation = read("qemu", ["-netdev", f"{TAP},vhost=on"])
    closed = ("svirt_t", "tun_tap_device_t", "chr_file")
    for permissions, kind, refused in (("open", "dir", False), ("open", "missing", True), ("read", "dir", True)):
        vhost = {"kind": "chr_file", "label": LABEL.replace("tun_tap", "vhost")}
        files = {**TUN, "/dev/vhost-net": vhost, "/sys/class/net/t0": {"kind": kind}}
        world = World(files=files, denied=[[*closed, permissions]])
        assert bool(plan(invocation, world.facts(invocation), world.rules()).refusals) is refused


@pytest.mark.parametrize(
    "given",
    [
        "tap,id=n,ifname=t0",  # QEMU runs /etc/qemu-ifup, which may need anything
        f"{TAP[:-2]}/x", "tap,id=n,script=no,downscript=no", f"{TAP},queues=2", "tap,id=n,fd=3", "tap,id=n,fds=3:4",
        "tap,id=n,ifname=tap%d,script=no,downscript=no", "tap,id=n,ifname=a/b,script=no,downscript=no",
        "tap,id=n,ifname=sixteen-letters0,script=no,downscript=no",
    ],
)  # fmt: skip
def test_a_tap_that_is_had_by_another_way_is_left_to_qemu(given: str) -> None:
    assert read("qemu", ["-netdev", given]).taps == ()


def test_a_tap_that_is_not_there_and_a_vm_without_labels_are_left_to_qemu() -> None:
    invocation = read("qemu", ["-netdev", TAP])
    nowhere = World(files={**TUN, "/sys/class/net/t0": {"kind": "missing"}})
    assert plan(invocation, nowhere.facts(invocation), nowhere.rules()).arguments == ("-netdev", TAP)
    for confinement in (Confinement.NONE, Confinement.LANDLOCK):
        unlabelled = replace(invocation, confinement=confinement)
        found = plan(unlabelled, THERE.facts(unlabelled), NO_POLICY)
        assert TAP in found.arguments
        assert "/sys/class/net/t0" not in [planned.path for planned in found.resources]


def test_a_socket_that_the_launcher_may_not_use() -> None:
    world = World(
        files={"/s": {"kind": "sock_file", "label": "u:object_r:init_t:s0"}},
        denied=[["confined_qemu_t", "init_t", "sock_file", "write"]],
    )
    found = connecting(world, "-chardev socket,id=c,path=/s")
    assert "confined_qemu_t may not connect to a socket labelled u:object_r:init_t:s0" in found.refusals[0]


def test_a_connection_that_qemu_makes_anew_is_its_own() -> None:
    world = World(
        files={"/s": {"kind": "sock_file"}}, denied=[["svirt_t", "virt_image_t", "sock_file", "write"]]
    )  # fmt: skip
    found = connecting(world, "-chardev socket,id=c,path=/s,reconnect=5")
    assert "may not write what is labelled" in found.refusals[0]


# ---- sockets


QMP = Listener("qmp", "run/q,mp.sock", "qmp", 1, "socket,fd=", ",server=on")
SOCKET = ("-chardev", "socket,fd={qmp},server=on")
RELAYED: list[list[Any]] = [["svirt_t", "svirt_t", "unix_stream_socket", "read write"]]


def test_a_socket_is_made_for_qemu() -> None:
    world = World()
    invocation = Invocation("vm", "qemu", SOCKET, listeners=(QMP,))
    facts = world.facts(invocation)
    found = plan(invocation, facts, world.rules())
    folder, bind = found.steps
    assert isinstance(folder, MakeFolder)
    assert isinstance(bind, Bind)
    assert bind.path == "/srv/vm/run/q,mp.sock"
    assert bind.inner == f"{folder.path}/qmp"
    assert found.arguments == SOCKET
    assert [(r.path, r.resource.access) for r in found.resources] == [(bind.path, Access.LISTEN)]


def test_a_socket_that_qemu_makes_lies_in_the_vms_own_folder() -> None:
    world = World()
    invocation = read("qemu", ["-vnc", "unix:/v", "-incoming", "unix:m"])
    found = plan(invocation, world.facts(invocation), world.rules())
    folder, vnc, incoming = found.steps
    assert isinstance(folder, MakeFolder)
    assert isinstance(vnc, Bind)
    assert isinstance(incoming, Bind)
    assert [(one.path, one.inner, one.by_qemu) for one in (vnc, incoming)] == [
        ("/v", f"{folder.path}/vnc", True),
        ("/srv/vm/m", f"{folder.path}/incoming", True),
    ]
    assert "," in folder.path
    assert found.arguments == (
        "-vnc", f"vnc=unix:{folder.path.replace(',', ',,')}/vnc", "-incoming", f"unix:{folder.path}/incoming",
    )  # fmt: skip
    assert found.given == ("-vnc", "unix:/v", "-incoming", "unix:m")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("-netdev dgram,id=n,local.type=unix,local.path=/s", "use -netdev stream,"),
        ("-netdev user,id=n,guestfwd=tcp:10.0.2.9:9-unix:/s,,server", "name a -chardev socket,"),
        ("-object x-vfio-user-server,id=o,socket.path=/s", "name a -chardev socket,"),
    ],
)
def test_a_socket_that_nobody_can_make_for_qemu_is_refused(line: str, hint: str) -> None:
    world = World()
    invocation = read("qemu", line.split())
    found = plan(invocation, world.facts(invocation), world.rules())
    [refusal] = found.refusals
    assert refusal.startswith("/s (-")
    assert hint in refusal
    bare = replace(invocation, confinement=Confinement.NONE)
    assert plan(bare, world.facts(bare), world.rules()).refusals == ()


def test_a_connection_keeps_no_other_socket_from_being_made() -> None:
    world = World(files={"/s": {"kind": "sock_file"}})
    invocation = read("qemu", ["-chardev", "socket,id=c,path=/s", "-chardev", "socket,id=d,path=/t,server=on"])
    found = plan(invocation, world.facts(invocation), world.rules())
    assert [type(step) for step in found.steps if not isinstance(step, MakeFolder)] == [Connect, Bind]


@pytest.mark.parametrize(("level", "refused"), [("s2:c1.c5", True), ("s0:c1.c5", True), ("s0", False)])
def test_between_levels_nothing_relays_a_socket_that_qemu_makes(level: str, *, refused: bool) -> None:
    label = Context.parse(f"system_u:system_r:svirt_t:{level}")
    caller = "unconfined_u:unconfined_r:unconfined_t:s0-s15:c0.c1023"
    for words, by_qemu in ((["-vnc", "unix:/v"], True), (["-chardev", "socket,id=c,path=/s,server=on"], False)):
        invocation = replace(read("qemu", words), seclabel=Seclabel(SeclabelType.STATIC, label=label))
        world = World(mls=True, caller=caller)
        refusals = plan(invocation, world.facts(invocation), world.rules()).refusals
        assert any("needs a relay" in line for line in refusals) is (refused and by_qemu)


@pytest.mark.parametrize("world", [World(selinux="disabled"), World()])
def test_unconfined_qemu_makes_its_socket_itself(world: World) -> None:
    found = made(world, arguments=SOCKET, listeners=(QMP,), confinement=Confinement.NONE)
    assert found.steps == ()
    assert found.arguments == ("-chardev", "socket,path=run/q,,mp.sock,server=on")


@pytest.mark.parametrize(
    ("label", "more", "swept"),
    [("svirt_image_t", "", True), ("svirt_image_t", ",readonly=on", False), ("usr_t", "", False)],
)
def test_what_qemu_makes_in_a_share_is_swept_where_it_has_the_vms_label(label: str, more: str, *, swept: bool) -> None:
    world = World(files={"/s": {"kind": "dir", "label": f"system_u:object_r:{label}:s0"}})
    found = connecting(world, f"-fsdev local,id=f,path=/s,security_model=none{more}")
    assert found.refusals == ()
    assert [type(step) for step in found.steps] == [Sweep] * swept


def test_a_helper_that_the_launcher_may_not_start_is_refused() -> None:
    helper = Helper(HelperKind.VIRTIOFSD, "fs", "/s", "shares[0]")
    files = {"/s": {"kind": "dir"}}
    assert made(World(files=files), helpers=(helper,)).refusals == ()
    denied = [["confined_qemu_t", policynames.VIRTIOFSD, "process", "transition"]]
    (line,) = made(World(files=files, denied=denied), helpers=(helper,)).refusals
    assert line.startswith("shares[0]: ")
    assert line.endswith("run: confined-qemu policy install")


# ---- descriptors


def descriptor(kind: str, label: str | None, **more: Any) -> dict[str, Any]:
    return {"number": 5, "kind": kind, "label": label, **more}


LOGIN = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (descriptor("fifo_file", LOGIN), Retag),
        (descriptor("unix_stream_socket", LOGIN), Relay),
        (descriptor("fifo_file", "u:r:t:s0"), None),
        (descriptor("file", None), None),
    ],
)
def test_what_is_handed_over_works(found: dict[str, Any], step: type | None) -> None:
    done = made(World(descriptors=[found]))
    assert done.refusals == ()
    assert [type(one) for one in done.steps] == ([step] if step else [])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (descriptor("chr_file", None, swapped=True), "was replaced by a null device"),
        (descriptor("file", "u:r:secret_t:s0"), "may not read and write it"),
        (descriptor("file", "u:r:secret_t:s0", readable=False), "may not write it"),
        (descriptor("fifo_file", "u:r:secret_t:s0", writable=False), "may not read it"),
        (descriptor("tcp_socket", LOGIN), "may not read and write it"),
    ],
)
def test_or_is_refused(found: dict[str, Any], words: str) -> None:
    denied = [["svirt_t", "secret_t", kind, "read write"] for kind in ("file", "fifo_file")]
    done = made(World(descriptors=[found], denied=denied))
    assert done.steps == ()
    assert words in done.refusals[0]


DELETED = descriptor("file", "u:r:secret_t:s0", links=0)


def test_a_file_without_a_name_is_made_the_vms_own() -> None:
    done = made(World(descriptors=[DELETED], denied=[["svirt_t", "secret_t", "file", "read write"]]))
    assert done.refusals == ()
    (step,) = done.steps
    assert isinstance(step, Retag)
    assert str(step.context) == f"system_u:object_r:svirt_image_t:{PAIR.level(0)}"


def test_what_is_opened_by_name_must_be_opened() -> None:
    denied = [["svirt_t", "secret_t", "file", "open"]]
    found = descriptor("file", "u:r:secret_t:s0")
    by_number = made(World(descriptors=[found], denied=denied))
    assert (by_number.steps, by_number.refusals) == ((), ())
    named = hostpaths.resource("/proc/self/fd/5", Role.INITRD, Access.READ, "-initrd")
    assert named is not None
    done = made(World(descriptors=[found], denied=denied), resources=(named,))
    assert "may not open it by name" in done.refusals[0]
    more = [["svirt_t", "secret_t", "file", "open write"]]
    assert "by name" not in made(World(descriptors=[found], denied=more), resources=(named,)).refusals[0]


def test_an_image_that_is_handed_over_by_number_is_labelled_as_one_that_is_named() -> None:
    denied = [["svirt_t", "secret_t", "file", "read write"]]
    disk = descriptor("file", "u:r:secret_t:s0", path="/images/a.img")
    log = descriptor("file", "u:r:secret_t:s0", path="/images/boot.log", readable=False) | {"number": 1}
    done = made(World(descriptors=[disk, log], denied=denied))
    assert done.refusals == ()
    labelled = [step.path for step in done.steps if isinstance(step, Relabel)]
    assert labelled == ["/images/a.img", "/images/boot.log"]
    kept = [["confined_qemu_t", "secret_t", "file", "relabelfrom"]]
    assert "may not read and write it" in made(World(descriptors=[disk], denied=[*denied, *kept])).refusals[0]


@given(strategies.hostile)
def test_only_a_number_is_a_descriptor(text: str) -> None:
    found = hostpaths.descriptor(f"/proc/self/fd/{text}")
    assert found is None or text.strip("/.") == str(found) or int(text.strip("/.")) == found


# ---- the whole


@given(strategies.hostile | strategies.stray)
def test_folders_have_plain_names(name: str) -> None:
    found = made(needs_tmpdir=True)
    assert found.temporary == "/var/tmp/confined-qemu.vm.c101-c202"  # noqa: S108 - not made
    invocation = Invocation(name, "qemu", (), needs_tmpdir=True)
    world = World()
    temporary = plan(invocation, world.facts(invocation), world.rules()).temporary
    assert temporary is not None
    last = temporary.removeprefix("/var/tmp/")  # noqa: S108 - not made
    assert "/" not in last
    assert last.isascii()
    assert last.isprintable()
    assert len(last) < 120


_files = st.sampled_from(["-hda", "-cdrom", "-kernel", "-pidfile", "-fda"])


@given(st.lists(st.tuples(_files, strategies.hostile), max_size=4), st.booleans())
def test_every_step_has_its_inverse(words: list[tuple[str, str]], kvm: bool) -> None:
    """What a plan gives, it takes back: nothing of this VM's pair is left on any file."""
    arguments = [part for n, (option, value) in enumerate(words) for part in (option, f"./{n}/{value}")]
    world = World(kvm=kvm)
    invocation = read("qemu-system-x86_64", arguments)
    found = plan(invocation, world.facts(invocation), world.rules())
    touched = []
    for step in found.steps:
        assert isinstance(step, Relabel | Create | MakeFolder)
        touched.append(step.path)
        if isinstance(step, Relabel):
            assert step.restore == step.before
        if isinstance(step, Create):
            assert step.remove or not (step.restore.range and step.restore.range.low.categories)
    assert len(touched) == len(set(touched))
    assert found.refusals == ()


# ---- shares


@pytest.mark.parametrize(("runs", "readonly"), [(True, False), (True, True), (False, False)])
def test_a_share_where_a_guest_may_leave_setuid_programs_is_told(runs: bool, readonly: bool) -> None:
    helper = Helper(HelperKind.VIRTIOFSD, "fs0", "/srv/share", "shares[0].dir", readonly)
    found = made(World(looked={"/srv/share": {"runs_setuid": runs}}), resources=(DISK,), helpers=(helper,))
    told = [line for line in found.warnings if "may leave setuid programs there" in line]
    assert len(told) == (runs and not readonly)
    assert not told or "mount it with nosuid, or close it: chmod o-x /srv/share" in told[0]


def test_who_reaches_a_folder_is_seen_by_the_modes_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path: real("/" if str(tmp_path).startswith(f"{path}/") else path))
    flags = [0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((0,) * 8 + (flags[0], 255)))
    tmp_path.chmod(0o755)
    assert helperfacts._runs_setuid(str(tmp_path))
    tmp_path.chmod(0o750)
    assert not helperfacts._runs_setuid(str(tmp_path))
    tmp_path.chmod(0o755)
    flags[0] = os.ST_NOSUID
    assert not helperfacts._runs_setuid(str(tmp_path))


def test_the_mount_of_a_shared_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount("overlay", str(tmp_path), "view", labels=False)
    label = Context.parse("system_u:object_r:svirt_image_t:s0")
    monkeypatch.setattr(mounts.Mounts, "of", lambda _table, _descriptor: mount)
    monkeypatch.setattr(lsm, "context_of", lambda _: label)
    monkeypatch.setattr(lsm, "denied", lambda *_: ())
    monkeypatch.setattr(lsm, "default_label", lambda *_: None)
    share = Resource(str(tmp_path), Role.SHARE, Access.READ_WRITE, Sharing.UNLABELLED, "share")
    invocation = Invocation("vm", "qemu-system-x86_64", (), resources=(share,))
    facts = World().facts(Invocation("vm", "qemu-system-x86_64", ()))
    (found,) = helperfacts.folders(invocation, facts.selinux, {}).values()
    assert (found.folder.label, found.folder.mount) == (label, mount)
