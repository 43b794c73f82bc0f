"""The labels of a tree before it was labelled for a VM: a file beside the VM's journal, a line for each inode.

Lines are appended in batches, and a batch is on disk before the first of its labels changes. So the last line may be
cut off: nothing was done to its inode yet.
"""

from __future__ import annotations

import os
import stat

from confined_qemu.labels import statefolders
from confined_qemu.model.context import Context
from confined_qemu.model.errors import JournalError, ValueProblem, printable, shell_word, why
from confined_qemu.model.facts import Identity
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NONE = "-"
"""In the place of a generation that the file system does not tell."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MOST_BYTES = 64 << 20
"""Of a tree's notes; the largest tree that is labelled has some 10 MiB."""


@dataclass(frozen=True, slots=True)
class Note:
    """The label that an inode had; a device's number may be another after the next boot, so there is none."""

    inode: int
    generation: int | None
    label: Context

    def encode(self) -> str:
        """Return its line."""
        generation = _NONE if self.generation is None else self.generation
        return f"{self.inode} {generation} {self.label}\n"

    @classmethod
    def parse(cls, line: str) -> Note:
        """Read a line.

        Raises:
            ValueError, ValueProblem: it is none.
        """
        inode, generation, label = line.split(" ", 2)
        return cls(int(inode), None if generation == _NONE else int(generation), Context.parse(label))

    def is_of(self, found: Identity) -> bool:
        """Tell whether this is the inode's, and not that of an earlier one with the same number."""
        unread = self.generation is None or found.generation is None
        return self.inode == found.inode and (unread or self.generation == found.generation)


def append(path: str, notes: Iterable[Note]) -> None:
    """Add lines to the file at `path`, made when it is missing, and sync it with its folder.

    Raises:
        JournalError: they are not on disk; the labels that they are about must stay as they are.
    """
    data = "".join(note.encode() for note in notes).encode("ascii")
    try:
        with statefolders.around(path) as (folder, name):
            descriptor = os.open(folder.at(name), _FLAGS, 0o600)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise JournalError("is not a regular file", where=path, hint=f"run: rm {shell_word(path)}")
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if found.st_size == 0:
                folder.sync()
    except OSError as error:
        raise JournalError(
            f"the labels of a tree cannot be noted: {why(error)}, so they were put back",
            where=path,
            hint="make room there (df), or share a smaller tree",
        ) from error


def read(paths: Iterable[str], given: Context | None = None) -> Mapping[int, Note]:
    """Return what these files say, by the number of the inode; the first line about one counts. A missing one is empty.

    A line that says `given`, the label that the tree got, counts only where no other is: whoever wrote it may have
    found what another VM that shares the tree had given.

    Raises:
        JournalError: one cannot be read, or a line in it is none.
    """
    found: dict[int, Note] = {}
    for path in paths:
        try:
            with statefolders.around(path) as (folder, name):
                descriptor = os.open(folder.at(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ValueError("not a regular file")  # noqa: TRY301 - told as every other thing that is none
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES >> 20} MiB")  # noqa: TRY301 - as above
            lines = data.decode("ascii").split("\n")
            for note in (Note.parse(line) for line in lines[:-1]):
                if found.setdefault(note.inode, note).label == given:
                    found[note.inode] = note
        except FileNotFoundError:
            continue
        except OSError as error:
            raise JournalError(f"cannot be read: {why(error)}", where=path) from error
        except (ValueError, ValueProblem) as error:
            raise JournalError(
                f"does not hold the labels of a tree: {printable(str(error))}",
                where=path,
                hint=f"check the labels of the share, then run: rm {shell_word(path)}",
            ) from error
    return found
