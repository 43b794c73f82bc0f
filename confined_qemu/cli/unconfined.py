"""Is this a VM that nothing is to confine? Found out before the launcher's domain is entered: no way leads back."""

from __future__ import annotations

import os

STARTING = ("run", "exec")
"""The verbs that start a VM."""
LAUNCHED = (*STARTING, "recover", "settle", "allow", "revoke")
"""The verbs that the launch script serves, in the launcher's domain."""
RESTORING = ("recover", "settle")
"""The verbs that put back what a crash left."""
_DOM0 = "/proc/xen/privcmd"
"""What a host has that runs under Xen, where Xen's tools work."""
_LARGEST = 1 << 20
"""Bytes of a spec that are looked at: what it may have."""
_BETWEEN = b" \t\r\n\"'"
"""What YAML, JSON and XML may have between a key and its value."""
_SAID = (b"confinement:none", b"confinement:landlock", b"type:none", b"type=none", b"hypervisor:xen")
"""`display: none` and the like are in most specs. One that says it by an alias is refused by the launch script."""


def keeps_context(arguments: list[str]) -> bool:
    """Tell whether `run` or `exec` with these words starts a VM without a label of its own, or a domain of Xen's.

    What cannot be read is not such a VM: the launch script says what is wrong with it. A spec is parsed only where
    it holds the words for it, so that all others are read once.
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if arguments[0] not in STARTING:
        # what a killed launcher left may be a domain, which the launcher's domain cannot destroy
        return arguments[0] in RESTORING and os.path.exists(_DOM0)
    stated = any(word.startswith("--c") for word in own)  # argparse takes a beginning for the whole
    if not stated and arguments[0] == "exec":
        return _settings_say_none()
    if not stated and not any(_may_say_none(word) for word in own[1:]):
        return False
    from confined_qemu.cli import launchverbs
    from confined_qemu.launch import inputs
    from confined_qemu.model.errors import ConfinedQemuError
    from confined_qemu.model.invocation import Confinement, Invocation

    try:
        chosen = launchverbs.parsed(arguments)
        said = chosen.confinement in {Confinement.NONE, Confinement.LANDLOCK}
        if chosen.verb == "exec" or said or chosen.spec == "-":
            return said  # standard input can be read once
        wanted = {"confinement": chosen.confinement, "unknown": chosen.unknown_options}
        found = inputs.wanted(chosen.spec, chosen.qemu or (), **wanted)
        return not isinstance(found, Invocation) or found.keeps_context
    except (ConfinedQemuError, OSError):
        return False


def _settings_say_none() -> bool:
    from confined_qemu.host import settingsfiles

    set_here = "CONFINED_QEMU_CONFINEMENT" in os.environ
    if not set_here and not any(os.path.exists(path) for path in settingsfiles.candidates(os.environ)):
        return False
    from confined_qemu.model.errors import ConfinedQemuError

    try:
        settings, _ = settingsfiles.load(os.environ)
    except ConfinedQemuError:
        return False
    return settings.confinement in {"none", "landlock"}


def _may_say_none(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            text = file.read(_LARGEST)
    except (OSError, ValueError):
        return False
    words = text.translate(None, _BETWEEN)
    return any(said in words for said in _SAID)
