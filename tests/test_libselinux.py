"""libselinux by way of ctypes: the real library, which answers a host without SELinux too."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys

import pytest

from confined_qemu.host import libselinux, lsm
from confined_qemu.model.context import Context
from confined_qemu.model.errors import LsmError

pytestmark = pytest.mark.touches_host


def test_it_is_loaded_once() -> None:
    assert libselinux.load() is libselinux.load()


def test_without_the_binding_or_with_the_shim_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selinux", None)
    assert lsm._binding() is libselinux.load()
    monkeypatch.setitem(sys.modules, "selinux", inspect)
    assert lsm._binding() is libselinux.load()


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
    with pytest.raises(LsmError, match="whether a:b:c:s0 is valid cannot be had"):
        lsm.is_valid(Context.parse("a:b:c:s0"))
