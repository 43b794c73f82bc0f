"""The mappings of a spec that name a folder with a helper: a TPM's state and shares. Pure."""

from __future__ import annotations

from typing import Final

from confined_qemu.read.spec.helpers import Share, ShareDriver, Tpm, TpmModel, TpmVersion
from confined_qemu.read.spec.kinds import Choice, Key, Table, Text, YesNo
from confined_qemu.read.spec.table_parts import PATH

TPM: Final = Table(
    of=Tpm,
    about="a TPM: the folder of its state, and how the guest sees it",
    build=lambda values, _path: Tpm(**values),
    keys=(
        Key(
            "state",
            PATH,
            "The folder of the TPM's state, for this VM alone; made when it is missing.",
            ("path", "dir", "source", "tpmstate"),
            stand_in="/",
            missing="add state: FOLDER",
        ),
        Key("version", Choice(TpmVersion), "The version of the TPM."),
        Key("model", Choice(TpmModel), "The device that the guest sees.", ("device",)),
    ),
)

SHARE: Final = Table(
    of=Share,
    about="a shared folder: dir and tag, and how it is shared",
    build=lambda values, _path: Share(**values),
    keys=(
        Key(
            "dir",
            PATH,
            "The folder of the host; without relabel it keeps its label, so it must be one that VMs may use.",
            ("path", "source", "folder"),
            stand_in="/",
            missing="add dir: FOLDER",
        ),
        Key(
            "tag",
            Text("a name of at most 31 letters, digits and / _ . : -", r"[A-Za-z0-9/_.:-]{1,31}"),
            "What the guest mounts: mount -t virtiofs TAG /mnt.",
            ("target", "mount_tag", "name"),
            stand_in="unnamed",
            missing="add tag: NAME",
        ),
        Key("driver", Choice(ShareDriver), "virtiofs (by virtiofsd) or 9p (by QEMU itself).", ("type",)),
        Key("readonly", YesNo(), "yes: the guest cannot write it.", ("read_only", "ro")),
        Key(
            "relabel",
            YesNo(),
            "yes: the folder and all that is in it is labelled for the VM, and gets its own labels back at the end.",
            ("seclabel",),
        ),
    ),
)
