"""What a distribution calls the packages that messages name, and the command that installs one. Pure."""

from __future__ import annotations

from confined_qemu.model.lean import Enum, StrEnum


class Family(StrEnum):
    """Distributions that share a package manager and its names, by the ID that the first of them has."""

    DEBIAN = "debian"
    FEDORA = "fedora"
    SUSE = "suse"


class Package(Enum):
    """What may be missing, by the names that the families have for it: (Debian's, Fedora's, SUSE's)."""

    QEMU = ("qemu-system-x86", "qemu-kvm", "qemu-x86")
    QEMU_IMG = ("qemu-utils", "qemu-img", "qemu-tools")
    PSUTIL = ("python3-psutil", "python3-psutil", "python3-psutil")
    YAML = ("python3-yaml", "python3-pyyaml", "python3-PyYAML")
    SELINUX = ("python3-selinux", "python3-libselinux", "python3-selinux")
    SEMODULE = ("policycoreutils", "policycoreutils", "policycoreutils")
    SEMANAGE = ("policycoreutils-python-utils", "policycoreutils-python-utils", "policycoreutils-python-utils")
    SWTPM = ("swtpm", "swtpm", "swtpm")
    VIRTIOFSD = ("virtiofsd (Debian 12: qemu-system-common)", "virtiofsd", "virtiofsd")


_COMMANDS = {Family.DEBIAN: "apt install", Family.FEDORA: "dnf install", Family.SUSE: "zypper install"}
_ORDER = tuple(_COMMANDS)
_IDS = {
    **dict.fromkeys(("debian", "ubuntu"), Family.DEBIAN),
    **dict.fromkeys(("fedora", "rhel", "centos", "almalinux", "rocky", "ol", "amzn"), Family.FEDORA),
    **dict.fromkeys(("suse", "opensuse", "sles", "opensuse-leap", "opensuse-tumbleweed"), Family.SUSE),
}


def family(os_release: str) -> Family | None:
    """Return the family of the distribution that an os-release(5) text tells of, None where that is not known.

    Its own ID goes before what it says it is like, and of those the first that is known.
    """
    fields = {}
    for line in os_release.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals:
            fields[name] = value.strip().strip("\"'")
    words = (*fields.get("ID", "").split(), *fields.get("ID_LIKE", "").split())
    return next((_IDS[word] for word in words if word in _IDS), None)


def command(of: Family | None, package: Package) -> str:
    """Return the command that installs a package, and both Debian's and Fedora's where the family is not known."""
    if of is not None:
        return f"{_COMMANDS[of]} {package.value[_ORDER.index(of)]}"
    return f"{command(Family.DEBIAN, package)} (Fedora: {command(Family.FEDORA, package)})"
