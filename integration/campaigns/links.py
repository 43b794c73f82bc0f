"""Links: while labels are set, put back and folders removed, two names are swapped thousands of times by renameat2(2).

What a link leads to is not the launcher's: its label, and what lies there, may never change.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from confined_qemu.host import inodes, lsm
from confined_qemu.install import policylabels
from confined_qemu.labels import find, label, removal
from confined_qemu.model.context import Context
from confined_qemu.model.errors import ConfinedQemuError
from confined_qemu.model.steps import Relabel
from integration.campaigns.world import BEFORE, GIVEN, LABEL, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EXCHANGE = 2
"""RENAME_EXCHANGE of linux/fs.h."""
_AT_FDCWD = -100
_SWAPS_PER_ACT = 20
"""At most, on the average: a swap is much faster than what it is to disturb."""
_SECRET = "system_u:object_r:shadow_t:s0"  # noqa: S105 - a label


class _Swapper(Thread):
    """Swaps two names `count` times, and on until enough has been done meanwhile."""

    def __init__(self, one: str, other: str, count: int) -> None:
        super().__init__(daemon=True)
        self.names = (os.fsencode(one), os.fsencode(other))
        self.count, self.done, self.is_enough = count, 0, False
        self.libc = ctypes.CDLL(None, use_errno=True)

    def run(self) -> None:
        """Swap."""
        while self.done < self.count or not self.is_enough:
            if self.libc.renameat2(_AT_FDCWD, self.names[0], _AT_FDCWD, self.names[1], _EXCHANGE) == 0:
                self.done += 1


def run(count: int) -> Iterator[str]:
    """Try each act against `count` swaps; yield figures.

    Raises:
        Loss: something that a link led to was changed.
    """
    for name, act in (("relabel and restore", _relabel), ("adopt", _adopt), ("removal", _remove)):
        with tempfile.TemporaryDirectory() as place:
            secret = os.path.join(place, "secret")
            os.mkdir(secret)
            with open(os.path.join(secret, "file"), "w", encoding="ascii"):
                pass
            for path in (secret, os.path.join(secret, "file")):
                _give(path, _SECRET)
            swaps, acts = act(place, secret, count)
            for path in (secret, os.path.join(secret, "file")):
                if not os.path.exists(path) or _label(path) != _SECRET:
                    raise Loss(f"{name}: {path} was changed through a link")
        yield f"{name}: {swaps} swaps, {acts} acts: nothing changed through a link"


def _against(one: str, other: str, count: int, act: Callable[[], None]) -> tuple[int, int]:
    swapper = _Swapper(one, other, count)
    swapper.start()
    acts = 0
    try:
        while swapper.is_alive():
            with suppress(ConfinedQemuError):  # that it says no is as good
                act()
            acts += 1
            swapper.is_enough = acts * _SWAPS_PER_ACT >= count
    finally:
        swapper.count, swapper.is_enough = 0, True
        swapper.join()
    return swapper.done, acts


def _relabel(place: str, secret: str, count: int) -> tuple[int, int]:
    image, link = os.path.join(place, "image"), os.path.join(place, "link")
    with open(image, "w", encoding="ascii"):
        _give(image, BEFORE)
    os.symlink(os.path.join(secret, "file"), link)
    descriptor = os.open(image, os.O_PATH)
    identity, found = inodes.identity_of(descriptor), os.fstat(descriptor)
    before, given = Context.parse(BEFORE), Context.parse(GIVEN)
    step = Relabel(image, identity, inodes.kind_of(found.st_mode), 1, before, given, before, exclusive=True)
    search = find.Search(find.by_inode([descriptor]))

    def act() -> None:
        try:
            label.apply(step, lambda _: None)
        finally:
            label.undo(step, lambda _: False, search)

    result = _against(image, link, count, act)
    if _label(f"/proc/self/fd/{descriptor}") != BEFORE:
        raise Loss("the image did not get its label back")
    os.close(descriptor)
    search.changes.sync()
    return result


def _adopt(place: str, secret: str, count: int) -> tuple[int, int]:
    """Go through a folder as `policy adopt` does; the policy's answers are a table, as there is no policy here."""
    folder = os.path.join(place, "vms")
    inner, link = os.path.join(folder, "inner"), os.path.join(place, "link")
    os.makedirs(inner)
    os.symlink(secret, link)
    with open(os.path.join(inner, "file"), "w", encoding="ascii"):
        pass
    lsm.customizable_types = frozenset
    lsm.default_label = _as_image

    # by descriptor, as this too must not follow the link
    mine = [os.open(path, os.O_PATH) for path in (folder, inner, os.path.join(inner, "file"))]

    def act() -> None:
        for descriptor in mine:
            _give(f"/proc/self/fd/{descriptor}", "system_u:object_r:var_t:s0")
        policylabels.restore(folder, lambda _: None)

    return _against(inner, link, count, act)


def _as_image(path: str, mode_bits: int) -> Context | None:  # noqa: ARG001 - in the place of lsm's
    return Context.parse(BEFORE)


def _remove(place: str, secret: str, count: int) -> tuple[int, int]:
    folder = os.path.join(place, "own")
    inner, link = os.path.join(folder, "inner"), os.path.join(place, "link")
    os.symlink(secret, link)

    def act() -> None:
        with suppress(FileExistsError):  # it was there, and a swap came before makedirs looked whether it is a folder
            os.makedirs(os.path.join(inner, "deep"), exist_ok=True)
        descriptor = os.open(folder, os.O_PATH)
        try:
            removal.remove(descriptor, folder)
        finally:
            os.close(descriptor)

    return _against(inner, link, count, act)


def _give(path: str, context: str) -> None:
    os.setxattr(path, LABEL, context.encode() + b"\0")


def _label(path: str) -> str:
    return os.getxattr(path, LABEL).rstrip(b"\0").decode()
