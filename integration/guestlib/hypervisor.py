"""Two Xen hypervisors for the Xen guest: one with XSM/Flask, built from Debian's source, and Debian's own, without.

Debian's package has no XSM. The Flask one carries the sample policy of Xen's source with categories (MCS), made to
compile, and with the rule that keeps the memory of one pair's domain from the other's.
"""

import glob
import gzip
import os
import re
import shutil

from integration.guestlib import base, cache, programs
from integration.guestlib.report import GuestError, progress

FLASK, STOCK = "xen-flask", "xen-stock"
CATEGORIES = 256
"""Of the Flask policy: fewer than the 1024 that SELinux has, so that what fits one may not fit the other."""
_PACKAGE = "xen"
_SETTINGS = (
    "CONFIG_XSM=y",
    "CONFIG_XSM_FLASK=y",
    "CONFIG_XSM_FLASK_POLICY=y",
    "CONFIG_XSM_FLASK_DEFAULT=y",
    "CONFIG_XSM_SILO=y",
    "# CONFIG_DEBUG_INFO is not set",
)
_GONE = ("getextvcpucontext", "setextvcpucontext", "scheduler")
"""Permissions that the sample policy's MLS rules still name, and no class has any more."""
_GRANT_RULE = """
# Memory is shared inside one level only: the sample policy keeps domains apart by type alone.
mlsconstrain grant { map_read map_write copy }
\t(( l1 eq l2 ) or ( t1 == mls_priv ) or ( t2 == mls_priv ));
"""
_MODULE = "test_host"
_RULES = """\
# The sample policy lets dom0 create a prot_domU_t, and never unpause it.
allow dom0_t prot_domU_t:domain unpause;
# A second name of a type: a domain that asks for it has the first.
typealias domU_t alias guest_t;
# Domains that dom0 sees, and may not destroy while the boolean is on.
gen_bool(kept_doms_locked, false)
declare_domain(kept_t)
create_domain(dom0_t, kept_t)
domain_comms(dom0_t, kept_t)
domain_self_comms(kept_t)
allow dom0_t kept_t:domain { pause unpause };
allow dom0_t kept_t:hvm gethvmc;
if (!kept_doms_locked) {
\tallow dom0_t kept_t:domain destroy;
}
"""
"""A module of the policy: domains that behave as a policy could have any behave."""
_SOURCES = "deb-src http://deb.debian.org/debian {suite} main\ndeb http://deb.debian.org/debian {suite} main\n"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def key() -> str:
    """Return the key of what `folder` holds."""
    return cache.digest(
        base.SUITE, *_SETTINGS, *_GONE, _GRANT_RULE, _RULES, str(CATEGORIES), cache.digest_files(__file__)
    )


def folder() -> str:
    """Return the folder with FLASK and STOCK; built from Debian's mirror when it is not in the cache."""
    return cache.entry("xen", key(), _build)


def _build(path: str) -> None:
    progress("building a Xen hypervisor with XSM/Flask (2 to 4 minutes, from the network)")
    os.mkdir(path)
    scratch = f"{path}.d"
    os.mkdir(scratch)
    try:
        source, stock = _fetch(scratch)
        with gzip.open(_only(f"{stock}/boot/xen-*.gz")) as packed, open(os.path.join(path, STOCK), "wb") as file:
            shutil.copyfileobj(packed, file)
        _write_policy(source)
        _configure(source, _only(f"{stock}/boot/xen-*.config"))
        # Debian's rules set these by way of dpkg-buildflags, which means programs and not a hypervisor.
        environment = {name: value for name, value in os.environ.items() if not name.endswith("FLAGS")}
        jobs = f"-j{os.cpu_count() or 1}"
        programs.run(["make", "-C", f"{source}/xen", "olddefconfig"], env=environment)
        programs.run(["make", "-C", f"{source}/xen", jobs, "build"], env=environment)
        shutil.copy(f"{source}/xen/xen", os.path.join(path, FLASK))
    finally:
        cache.remove(scratch)


def _fetch(scratch: str) -> tuple[str, str]:
    """Return the folders of the unpacked source and of the unpacked package with Debian's hypervisor."""
    sources, lists = os.path.join(scratch, "sources.list"), os.path.join(scratch, "lists")
    os.makedirs(os.path.join(lists, "partial"))
    with open(sources, "w", encoding="ascii") as file:
        file.write(_SOURCES.format(suite=base.SUITE).replace(" http", f" [signed-by={_KEYRING}] http"))
    settings = {
        "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "-", "Dir::State::Lists": lists,
        "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "", "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    programs.run([*apt, "update"])
    package = "xen-hypervisor-4.17-amd64"
    programs.run(["sh", "-c", 'cd "$0" && exec "$@"', scratch, *apt, "source", _PACKAGE])
    programs.run(["sh", "-c", 'cd "$0" && exec "$@"', scratch, *apt, "download", package])
    stock = os.path.join(scratch, "stock")
    programs.run(["dpkg-deb", "-x", _only(f"{scratch}/{package}_*.deb"), stock])
    return _only(f"{scratch}/{_PACKAGE}-*/"), stock


def _write_policy(source: str) -> None:
    """Edit the sample policy: it compiles with categories, a grant stays inside its level, and _RULES are in it."""
    policy = os.path.join(source, "tools/flask/policy")
    rules = os.path.join(policy, "policy/mls")
    with open(rules, encoding="ascii") as file:
        text = file.read()
    for word in _GONE:
        text, count = re.subn(rf"\b{word}\b", "", text)
        if not count:
            raise GuestError(f"{rules}: names no {word}; look whether this source still needs the edit")
    with open(rules, "w", encoding="ascii") as file:
        file.write(text + _GRANT_RULE)
    with open(os.path.join(policy, f"modules/{_MODULE}.te"), "w", encoding="ascii") as file:
        file.write(_RULES)
    with open(os.path.join(policy, "modules/modules.conf"), "a", encoding="ascii") as file:
        file.write(f"\n{_MODULE} = on\n")
    makefile = os.path.join(policy, "Makefile.common")
    with open(makefile, encoding="ascii") as file:
        text = file.read()
    text = re.sub(r"(?m)^MLS_CATS.*$", f"MLS_CATS ?= {CATEGORIES}", text)
    text = re.sub(r"(?m)^CONFIG_MLS.*$", "CONFIG_MLS ?= y", text)
    with open(makefile, "w", encoding="ascii") as file:
        file.write(text)


def _configure(source: str, debians: str) -> None:
    """Write Debian's own configuration with XSM and Flask switched on."""
    names = {re.sub(r"^# |( is not set|=y)$", "", line) for line in _SETTINGS}
    with open(debians, encoding="ascii") as file:
        kept = [line for line in file if not any(re.search(rf"\b{name}\b", line) for name in names)]
    with open(f"{source}/xen/.config", "w", encoding="ascii") as file:
        file.writelines([*kept, *(f"{line}\n" for line in _SETTINGS)])


def _only(pattern: str) -> str:
    found = sorted(glob.glob(pattern))
    if len(found) != 1:
        raise GuestError(f"{pattern}: one expected, found {len(found)}")
    return found[0].rstrip("/")
