"""Which files may lie in a folder that becomes a place for images: what users brought there, on every policy."""

from __future__ import annotations

import pytest

from confined_qemu.host import lsm
from confined_qemu.install import adopt
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from tests.fakes import DEBIAN


def look(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setattr(adopt, "_require_idle", lambda _: None)
    monkeypatch.setattr(lsm, "policy_contexts", lambda: DEBIAN)
    monkeypatch.setattr(adopt, "_labels", lambda path: [(f"{path}/a.img", Context.parse(label))])
    adopt._look_through("/srv/vms")


@pytest.mark.parametrize(
    "type_", ["user_home_t", "admin_home_t", "virt_home_t", "svirt_home_t", "data_home_t", "cache_home_t", "var_t"]
)
def test_what_a_user_brought_may_lie_there(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    look(monkeypatch, f"unconfined_u:object_r:{type_}:s0")


@pytest.mark.parametrize("type_", ["config_home_t", "ssh_home_t", "shell_exec_t", "container_file_t"])
def test_what_is_no_image_may_not(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    with pytest.raises(HostError, match=f"is no image: it is labelled unconfined_u:object_r:{type_}:s0"):
        look(monkeypatch, f"unconfined_u:object_r:{type_}:s0")
