"""Steps that make something of the caller's: sockets at paths of any length."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from confined_qemu.launch import performing

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.touches_host
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("length", [107, 108, 109, 250, 1000])
def test_a_socket_may_have_a_longer_path_than_its_address(tmp_path: Path, length: int, kept: bool) -> None:
    """unix(7) gives 107 bytes; a caller who works in a deep folder names the socket by a short relative path."""
    folder = str(tmp_path)
    while len(folder) < length - 100:
        folder = os.path.join(folder, "d" * 50)
    os.makedirs(folder, exist_ok=True)
    path = f"{folder}/".ljust(length, "s")
    listener = socket.socket(fileno=performing._listening(path, kept=kept))
    client = socket.socket(fileno=performing._connected(path))
    accepted, _ = listener.accept()
    accepted.sendall(b"x")
    assert client.recv(1) == b"x"
    for one in (listener, client, accepted):
        one.close()
    assert os.path.exists(path)


@pytest.mark.touches_host
def test_a_socket_that_qemu_gets_has_an_address_that_leads_nowhere_there(tmp_path: Path) -> None:
    """QEMU unlinks it when it ends, which SELinux denies in a folder of images (util/qemu-sockets.c)."""
    path = str(tmp_path / "s")
    listener = socket.socket(fileno=performing._listening(path, kept=True))
    address = listener.getsockname()
    assert os.path.basename(address) == "s"
    with pytest.raises(FileNotFoundError):
        os.unlink(address)
    assert os.path.exists(path)
    listener.close()
