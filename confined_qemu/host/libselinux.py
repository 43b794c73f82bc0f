"""libselinux by way of ctypes: what `lsm` uses of it, by the names and with the errors of its Python binding.

The binding takes a launch as long as Python itself does, and EL 9 has it for its platform's Python 3.9 only. Everything
is libselinux's own work, so that both answer the same. Its audit2why is a program of the binding's, and is not here.
"""

from __future__ import annotations

import ctypes
import os

_LIBRARY = "libselinux.so.1"
_TEXT = ctypes.c_char_p
_CLASS = ctypes.c_ushort
"""security_class_t."""
_VECTOR = ctypes.c_uint
"""access_vector_t."""
_MODE = ctypes.c_uint
"""mode_t."""
_STATUS = ctypes.c_int


class AvDecision(ctypes.Structure):
    """`struct av_decision` of selinux/selinux.h."""

    allowed: int
    auditdeny: int
    flags: int
    _fields_ = (
        ("allowed", _VECTOR), ("decided", _VECTOR), ("auditallow", _VECTOR), ("auditdeny", _VECTOR),
        ("seqno", ctypes.c_uint), ("flags", ctypes.c_uint),
    )  # fmt: skip


_MADE = ctypes.POINTER(ctypes.c_void_p)
"""`char **`: a text that libselinux allocates, and freecon frees."""
_PROTOTYPES = {
    "setexeccon_raw": (_STATUS, _TEXT),
    "setfscreatecon_raw": (_STATUS, _TEXT),
    "setsockcreatecon_raw": (_STATUS, _TEXT),
    "security_check_context_raw": (_STATUS, _TEXT),
    "string_to_security_class": (_CLASS, _TEXT),
    "string_to_av_perm": (_VECTOR, _CLASS, _TEXT),
    "security_compute_av_raw": (_STATUS, _TEXT, _TEXT, _CLASS, _VECTOR, ctypes.POINTER(AvDecision)),
    "security_compute_av_flags_raw": (_STATUS, _TEXT, _TEXT, _CLASS, _VECTOR, ctypes.POINTER(AvDecision)),
    "security_compute_create_raw": (_STATUS, _TEXT, _TEXT, _CLASS, _MADE),
    "matchpathcon": (_STATUS, _TEXT, _MODE, _MADE),
    "matchpathcon_fini": (None,),
    "freecon": (None, ctypes.c_void_p),
    "selinux_default_type_path": (_TEXT,),
    "selinux_file_context_local_path": (_TEXT,),
    "selinux_virtual_domain_context_path": (_TEXT,),
    "selinux_virtual_image_context_path": (_TEXT,),
}
"""What is called: the type of its result, then those of its arguments (selinux/selinux.h)."""
_found: list[Library] = []


def load() -> Library:
    """Return the library, loaded once.

    Raises:
        OSError: it is not there.
    """
    if not _found:
        _found.append(Library())
    return _found[0]


class Library:
    """libselinux. What fails raises OSError with the number that libselinux left."""

    av_decision = AvDecision

    def __init__(self) -> None:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
        for name, (result, *arguments) in _PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library

    def setexeccon_raw(self, context: str | None) -> None:
        """Choose the context of the next exec; None leaves it to the policy."""
        _require(self._library.setexeccon_raw(_bytes(context)))

    def setfscreatecon_raw(self, context: str | None) -> None:
        """Choose the label of files that are made; None leaves it to the policy."""
        _require(self._library.setfscreatecon_raw(_bytes(context)))

    def setsockcreatecon_raw(self, context: str | None) -> None:
        """Choose the label of sockets that are made; None leaves it to the policy."""
        _require(self._library.setsockcreatecon_raw(_bytes(context)))

    def security_check_context_raw(self, context: str) -> None:
        """Raise EINVAL where the policy does not know the context."""
        _require(self._library.security_check_context_raw(_bytes(context)))

    def string_to_security_class(self, name: str) -> int:
        """Return a class's number, 0 for one that the policy does not define."""
        return int(self._library.string_to_security_class(_bytes(name)))

    def string_to_av_perm(self, number: int, name: str) -> int:
        """Return a permission's bit, 0 for one that the class has not."""
        return int(self._library.string_to_av_perm(number, _bytes(name)))

    def security_compute_av_raw(
        self, source: str, target: str, number: int, requested: int, decision: AvDecision
    ) -> None:
        """Fill in the kernel's decision."""
        question = (_bytes(source), _bytes(target), number, requested)
        _require(self._library.security_compute_av_raw(*question, ctypes.byref(decision)))

    def security_compute_av_flags_raw(
        self, source: str, target: str, number: int, requested: int, decision: AvDecision
    ) -> None:
        """Fill in the kernel's decision with its flags."""
        question = (_bytes(source), _bytes(target), number, requested)
        _require(self._library.security_compute_av_flags_raw(*question, ctypes.byref(decision)))

    def security_compute_create_raw(self, source: str, target: str, number: int) -> tuple[int, str]:
        """Return the status, and the label of a new object."""
        made = ctypes.c_void_p()
        _require(self._library.security_compute_create_raw(_bytes(source), _bytes(target), number, ctypes.byref(made)))
        return 0, self._taken(made)

    def matchpathcon(self, path: str, mode: int) -> tuple[int, str]:
        """Return the status, and the policy's label for a path; raises ENOENT where it has none."""
        made = ctypes.c_void_p()
        _require(self._library.matchpathcon(_bytes(path), mode, ctypes.byref(made)))
        return 0, self._taken(made)

    def matchpathcon_fini(self) -> None:
        """Forget the file contexts that were read."""
        self._library.matchpathcon_fini()

    def selinux_default_type_path(self) -> str:
        """Return where the loaded policy keeps this file; the same for the next three."""
        return os.fsdecode(self._library.selinux_default_type_path())

    def selinux_file_context_local_path(self) -> str:
        """As above."""
        return os.fsdecode(self._library.selinux_file_context_local_path())

    def selinux_virtual_domain_context_path(self) -> str:
        """As above."""
        return os.fsdecode(self._library.selinux_virtual_domain_context_path())

    def selinux_virtual_image_context_path(self) -> str:
        """As above."""
        return os.fsdecode(self._library.selinux_virtual_image_context_path())

    def _taken(self, made: ctypes.c_void_p) -> str:
        text = os.fsdecode(ctypes.string_at(made.value or 0))
        self._library.freecon(made)
        return text


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _require(status: int) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
