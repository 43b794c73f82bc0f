"""QEMU's own installation, as far as it depends on the host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import installation

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("real", "folder"),
    [
        ("/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve"),
        ("/run/resolvconf/resolv.conf", "/run/resolvconf"),
        ("/etc/resolv.conf", None),
        ("/home/x/resolv.conf", None),
    ],
)
def test_the_folder_in_which_resolv_conf_is_replaced(
    real: str, folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user network reads the new one; a folder that holds more than that is not opened for it."""
    link = tmp_path / "resolv.conf"
    link.symlink_to(real)
    monkeypatch.setattr(installation, "_RESOLVER", str(link))
    monkeypatch.setattr(os.path, "realpath", os.readlink)
    assert list(installation._resolver()) == ([folder] if folder is not None else [])
