"""The ssh keys of guest and user: made once in the cache folder, for local throw-away guests only."""

import os

from integration.guestlib import cache, programs

_NAMES = ("user", "host")


def private_key() -> str:
    """Return the file of the key that logs in as root."""
    return _key("user")


def known_hosts() -> str:
    """Return a known_hosts file that names every guest's host key."""
    return os.path.join(os.path.dirname(_key("host")), "known_hosts")


def public_keys() -> str:
    """Return the public halves of both keys."""
    return "".join(_read(_key(name) + ".pub") for name in _NAMES)


def install(root: str) -> None:
    """Put the host key and the permission to log in into a guest's root."""
    folder = os.path.join(root, "root/.ssh")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _write(os.path.join(folder, "authorized_keys"), _read(_key("user") + ".pub"), 0o600)
    host = os.path.join(root, "etc/ssh/ssh_host_ed25519_key")
    _write(host, _read(_key("host")), 0o600)
    _write(host + ".pub", _read(_key("host") + ".pub"), 0o644)


def _key(name: str) -> str:
    return os.path.join(cache.entry("ssh", cache.digest("ssh keys"), _make), name)


def _make(path: str) -> None:
    os.mkdir(path, mode=0o700)
    for name in _NAMES:
        comment = f"confined-qemu guest, {name}"
        programs.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", os.path.join(path, name)])
    kind, text = _read(os.path.join(path, "host.pub")).split()[:2]
    _write(os.path.join(path, "known_hosts"), f"guest {kind} {text}\n", 0o600)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, text: str, mode: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
