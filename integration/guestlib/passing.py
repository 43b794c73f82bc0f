"""The way of a disk from a spec, or from `-drive`, to a plan: each function of ours that is handed it, in order.

    python3 -m integration.guestlib.passing

prints the modules that it passes, with the functions of each, for both.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

PACKAGE = "confined_qemu."
NAME = "passing-disk.img"
_DOMAIN = "system_u:system_r:svirt_t:s0\n"
_IMAGES = "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n"
_SPEC = f"name: x\nemulator: ./qemu\ndisks:\n  - {{file: {NAME}, format: raw}}\n"

Way = list[tuple[str, str]]
"""(module, function) of each call."""


def has(value: Any, levels: int = 2) -> bool:
    """Tell whether a value is the disk's path or has it, as deep as an option in a list of arguments is."""
    if isinstance(value, str):
        return NAME in value
    inner: Sequence[Any] = ()
    if isinstance(value, dict):
        inner = (*value, *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = tuple(value)
    elif type(value).__module__.startswith(PACKAGE):
        fields = (*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ()))
        inner = [getattr(value, field) for field in fields if hasattr(value, field)]
    return levels > 0 and any(has(one, levels - 1) for one in inner)


def way(words: Sequence[str]) -> Way:
    """Run a command line of `confined-qemu` and return the calls that were handed the disk; `self` hands nothing."""
    from confined_qemu.cli import command

    found: Way = []

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith(PACKAGE):
            return
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        if any(has(frame.f_locals.get(name)) for name in code.co_varnames[:count] if name != "self"):
            found.append((module.removeprefix(PACKAGE), code.co_qualname))

    before = sys.getprofile()
    with redirect_stdout(StringIO()):
        sys.setprofile(note)
        try:
            code = command.main(words)
        finally:
            sys.setprofile(before)
    assert code == 0, words
    return found


def ways(folder: str) -> dict[str, Way]:
    """Return the disk's way for a spec and for `-drive`, on a host that enforces; the working directory is `folder`."""
    contexts = os.path.join(folder, "policy/contexts")
    os.makedirs(contexts)
    files = {"virtual_domain_context": _DOMAIN, "virtual_image_context": _IMAGES}
    for path, text in {**{f"{contexts}/{name}": text for name, text in files.items()}, "x.yaml": _SPEC}.items():
        with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
            file.write(text)
    for name in (NAME, "qemu"):
        with open(os.path.join(folder, name), "wb"):
            pass
    os.chmod(os.path.join(folder, "qemu"), 0o755)
    plan = ["plan", "--policy-root", "policy"]
    drive = ["--emulator", "./qemu", "--", "-drive", f"format=raw,file={os.path.join(folder, NAME)}"]
    return {"spec": way([*plan, "x.yaml"]), "-drive": way([*plan, *drive])}


def counted(passed: Way) -> tuple[int, int]:
    """Return how many modules a disk passes, and how often it changes module."""
    modules = [module for module, _ in passed]
    return len(set(modules)), sum(one != other for one, other in pairwise(modules))


def main() -> None:
    """Print both ways."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for what, passed in ways(folder).items():
            print("{}: {} modules, {} changes".format(what, *counted(passed)))
            for module in dict.fromkeys(module for module, _ in passed):
                calls = Counter(function for other, function in passed if other == module)
                print(f"  {module:20}", ", ".join(f"{name} {count}" for name, count in calls.items()))


if __name__ == "__main__":
    main()
