"""A launch leaves nothing in a host's audit log: what it is denied, the policy or our module keeps out of it.

The guest's policy is without dontaudit rules, so that a denial shows up here; the same policy with them, as hosts have
it, says which would be in a log.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import setools
from selinux import audit2why

from integration.guestlib import places
from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Iterator


def _ours(denial: harness.Denial) -> bool:
    kind = denial.source.split(":")[2]
    return kind.startswith(("confined_qemu_", "svirt_"))


class _Policy:
    """The policy with its dontaudit rules: does it keep a denial out of the log?"""

    def __init__(self) -> None:
        audit2why.init(places.AUDITED)
        self._known: dict[tuple[str, ...], bool] = {}

    def silent(self, source: str, target: str, kind: str, permission: str) -> bool:
        """Tell it of one permission, by the contexts of the denial."""
        question = (*(context.split(":")[2] for context in (source, target)), kind, permission)
        if question not in self._known:
            reason, _ = audit2why.analyze(source, target, kind, [permission])
            # where a boolean would allow it, libselinux says no more
            by_rule = reason == audit2why.BOOLEAN and any(_rules(*question))
            self._known[question] = reason == audit2why.DONTAUDIT or by_rule
        return self._known[question]


def _rules(source: str, target: str, kind: str, permission: str) -> Iterator[Any]:
    """Yield the rules themselves, which takes a minute of this emulated machine."""
    policy = setools.SELinuxPolicy(places.AUDITED)
    query = setools.TERuleQuery(
        policy, ruletype=["dontaudit"], source=source, target=target, tclass=[kind], perms=[permission]
    )
    yield from query.results()


def _chain(folder: str) -> str:
    base, top = os.path.join(folder, "base.raw"), os.path.join(folder, "top.qcow2")
    harness.run("qemu-img", "create", "-q", "-f", "raw", base, "1M")
    harness.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top)
    harness.run("restorecon", "-RF", folder)
    return top


@pytest.fixture(scope="module")
def policy() -> _Policy:
    """The policy, which libselinux loads once in a process."""
    return _Policy()


@pytest.mark.parametrize("landlock", ["no", "also"])
def test_no_launch_leaves_a_denial(
    image: harness.Image, folder: str, audit: harness.AuditTrail, policy: _Policy, landlock: str
) -> None:
    """A spec with a chain and a monitor (launcher, probe, watcher), a plan, and what `denials` does afterwards.

    With Landlock beside it the launcher looks at more of the host.
    """
    with open(image.spec, encoding="utf-8") as file:
        disks = json.load(file)["disks"]
    disks.append({"file": _chain(folder), "format": "qcow2"})
    image.write_spec(disks=disks, qmp=f"unix:{os.path.join(folder, 'qmp.sock')}", landlock=landlock)
    vm = harness.boot_spec(image)
    vm.popen.terminate()
    assert b"unlink" not in vm.popen.communicate()[1]
    assert vm.popen.returncode == 0
    harness.settle()
    for words in (("plan", image.spec), ("denials", "a"), ("recover",)):
        assert harness.confined(*words).returncode == 0, words
    seen = [denial for denial in audit.denials() if _ours(denial)]
    assert seen != [], "without its dontaudit rules no policy is so silent: nothing was looked at"
    launcher, program = "system_u:system_r:confined_qemu_t:s0", "system_u:object_r:bin_t:s0"
    assert not policy.silent(launcher, program, "file", "write")  # not everything is kept out
    logged = [
        denial.text
        for denial in seen
        if not all(policy.silent(denial.source, denial.target, denial.kind, one) for one in denial.permissions)
    ]
    assert "\n".join(logged) == ""
