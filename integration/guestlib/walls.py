"""What a program in QEMU's place tries on this machine, as data: done bare, and held by Landlock (ABI 7).

`integration/buildhost` has the program try each and compares; the table of the help topic `landlock` is made of it.
"""

from typing import NamedTuple

from integration.guestlib.strikes import Answer


class Attempt(NamedTuple):
    """One attempt: `kind` is the hostile program's word, `target` what the test puts there."""

    what: str
    kind: str
    target: str
    landlock: Answer = Answer.DENIED


ATTEMPTS = (
    Attempt("read and write its own image", "write", "own", Answer.DONE),
    Attempt("read another VM's image", "read", "image"),
    Attempt("write to it", "write", "image"),
    Attempt("truncate it", "truncate", "image"),
    Attempt("list its folder", "list", "folder"),
    Attempt("make a file in its folder", "create", "new"),
    Attempt("make a file beside the own image", "create", "beside"),
    Attempt("read another VM's memory", "memory", "vm"),
    Attempt("read its environment", "read", "environ"),
    Attempt("trace it", "trace", "child"),
    Attempt("read root's secrets", "read", "shadow"),
    Attempt("list a home", "list", "home"),
    Attempt("run a shell", "run", "shell"),
    Attempt("connect to a TCP port (no network)", "tcp", "port"),
    Attempt("listen on a TCP port", "listen", "free"),
    Attempt("connect to an abstract socket", "connect", "abstract"),
    Attempt("connect to another VM's QMP socket", "connect", "socket", Answer.DONE),
    Attempt("send a UDP packet", "udp", "port", Answer.DONE),
    Attempt("change another image's mode (as the same user)", "chmod", "image", Answer.DONE),
    Attempt("look at its size and times", "stat", "image", Answer.DONE),
    Attempt("become another user (root's VM)", "setuid", "nobody"),
    Attempt("mount", "mount", "folder"),
    Attempt("delete another VM's image", "unlink", "image"),
    Attempt("kill another VM", "terminate", "vm"),
)
"""In the order in which they are made: the last ones leave little to try. Bare, all of them are done."""


def table() -> str:
    """Return the help topic's table."""
    rows = [f"| {one.what} | {Answer.DONE} | {one.landlock} |" for one in ATTEMPTS]
    return "\n".join(["| attempt | bare | Landlock |", "|---|---|---|", *rows])
