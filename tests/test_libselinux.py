"""libselinux by way of ctypes: the real library, which answers a host without SELinux too."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from typing import Any

import pytest

from confined_qemu.host import libselinux, lsm
from confined_qemu.model.answers import Answer, Reason, Setting
from confined_qemu.model.context import Context
from confined_qemu.model.errors import LsmError
from confined_qemu.model.facts import Boolean

pytestmark = pytest.mark.touches_host


def test_it_is_loaded_once() -> None:
    assert libselinux.load() is libselinux.load()


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selinux", None)
    monkeypatch.setattr(libselinux, "_found", [])
    monkeypatch.setattr(libselinux, "_LIBRARY", "libselinux.so.0")
    with pytest.raises(LsmError, match=r"libselinux cannot be loaded: libselinux\.so\.0") as raised:
        lsm.set_exec_context(None)
    assert "install" in str(raised.value.hint)


def test_what_fails_has_the_kernels_number() -> None:
    """Without SELinux attr/exec takes nothing, and nothing says which contexts are valid."""
    library = libselinux.load()
    with pytest.raises(OSError, match=r"\[Errno \d+\] \w+") as raised:
        library.setexeccon_raw("not a context")
    assert raised.value.errno in (errno.EINVAL, errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP)
    assert library.string_to_security_class("no_such_class") == 0
    path = library.selinux_virtual_domain_context_path()
    assert os.path.isabs(path)
    assert path.endswith("/contexts/virtual_domain_context")


def test_every_function_that_lsm_uses_is_there() -> None:
    names = set(re.findall(r"binding(?:\(\))?\.(\w+)", inspect.getsource(lsm)))
    assert {"setexeccon_raw", "string_to_av_perm"} <= names
    assert [name for name in names if not hasattr(libselinux.Library, name)] == []


def test_a_context_that_cannot_be_asked_about_is_an_error_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selinux", None)
    if os.path.exists("/sys/fs/selinux/context"):
        assert lsm.is_valid(Context.parse("a:b:c:s0")) is False
        return
    with pytest.raises(LsmError, match="whether the policy knows the context a:b:c:s0 cannot be asked"):
        lsm.is_valid(Context.parse("a:b:c:s0"))


# ---- why something is denied, without audit2why

VM = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
RULES = {("svirt_image_t", "s0:c1,c2"), ("content_t", "s0"), ("content_t", "s0:c1,c2")}
"""What the VM may read: (type, range). Levels alone keep it from another VM's image."""
QUIET = {"quiet_t"}


class Kernel:
    """The library, where the policy is a table."""

    class av_decision:  # noqa: N801, D106 - libselinux's name, and its work
        allowed, auditdeny = 0, 1

    def string_to_security_class(self, name: str) -> int:
        return int(name == "file")

    def string_to_av_perm(self, _: int, name: str) -> int:
        return int(name == "read")

    def security_check_context_raw(self, text: str) -> None:
        if "no_type_t" in text:
            raise OSError(errno.EINVAL, "invalid")

    def security_compute_av_raw(self, _: str, target: str, __: int, ___: int, decision: Any) -> None:
        kind, _, level = target.removeprefix("system_u:object_r:").partition(":")
        decision.allowed = int((kind, level) in RULES)
        decision.auditdeny = int(kind not in QUIET)


@pytest.mark.parametrize(
    ("target", "kind", "answer"),
    [
        ("svirt_image_t:s0:c1,c2", "file", Answer(Reason.ALLOWED)),
        ("svirt_image_t:s0:c3,c4", "file", Answer(Reason.CONSTRAINT)),
        ("nfs_t:s0", "file", Answer(Reason.BOOLEANS, (Setting("virt_use_nfs", on=True),))),
        ("shadow_t:s0", "file", Answer(Reason.NO_RULE_NOW)),
        ("quiet_t:s0", "file", Answer(Reason.SILENT)),
        ("no_type_t:s0", "file", Answer(Reason.UNKNOWN)),
        ("shadow_t:s0", "no_class", Answer(Reason.UNKNOWN)),
    ],
)
def test_the_kernels_decisions_tell_why(
    monkeypatch: pytest.MonkeyPatch, target: str, kind: str, answer: Answer
) -> None:
    monkeypatch.setitem(sys.modules, "selinux", None)
    monkeypatch.setattr(libselinux, "_found", [Kernel()])
    monkeypatch.setattr(lsm, "boolean", lambda name: Boolean.OFF if name == "virt_use_nfs" else Boolean.ABSENT)
    with lsm.policy_opened() as why:
        assert why(VM, Context.parse(f"system_u:object_r:{target}"), kind, ("read",)) == answer
