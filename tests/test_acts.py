"""Steps that make something of the caller's: sockets at paths of any length."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from confined_qemu.launch import execute

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.touches_host
@pytest.mark.parametrize("length", [107, 108, 109, 250, 1000])
def test_a_socket_may_have_a_longer_path_than_its_address(tmp_path: Path, length: int) -> None:
    """unix(7) gives 107 bytes; a caller who works in a deep folder names the socket by a short relative path."""
    folder = str(tmp_path)
    while len(folder) < length - 100:
        folder = os.path.join(folder, "d" * 50)
    os.makedirs(folder, exist_ok=True)
    path = f"{folder}/".ljust(length, "s")
    listener = socket.socket(fileno=execute._listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path))
    client = socket.socket(fileno=execute._connected(path))
    accepted, _ = listener.accept()
    accepted.sendall(b"x")
    assert client.recv(1) == b"x"
    for one in (listener, client, accepted):
        one.close()
    assert os.path.exists(path)
