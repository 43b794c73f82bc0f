"""The module's own life: status, removal that leaves nothing behind, the refusal without it, and its return.

Last in the suite: each change of the policy takes the emulated guest most of a minute.
"""

from __future__ import annotations

import os
import re
import tempfile

from integration.suite import harness
from integration.suite.policies import HERE


def _without_the_module(image: harness.Image) -> None:
    """A VM is refused where the policy lets nothing else start one; else it runs, and a line says what is missing."""
    command = [harness.COMMAND, "run", image.spec]
    if HERE.needs_module:
        done = harness.run(*command, check=False)
        assert done.returncode == 125
        said = done.stderr
    else:
        with tempfile.TemporaryFile("w+") as errors:
            vm = harness.boot(*command, stderr=errors)
            assert harness.context(harness.qemu_of(image.path)).startswith("system_u:system_r:svirt_t:s0:c")
            assert harness.power_off(vm) == 0
            errors.seek(0)
            said = errors.read()
    (line,) = harness.messages(said)
    assert "confined-qemu policy install" in line
    assert harness.short_label(image.path) == harness.UNUSED


def test_status_without_label_remove_refusal_and_install(image: harness.Image) -> None:
    done = harness.confined("policy", "status")
    assert done.returncode == 0
    assert re.search(r"module: +version (\d+) \(this package: version \1\)", done.stdout)

    harness.run("chcon", "-t", "bin_t", harness.LAUNCH)
    done = harness.confined("policy", "status")
    assert done.returncode == 1
    assert f"restorecon -F {harness.LAUNCH}" in done.stdout
    harness.run("restorecon", "-F", harness.LAUNCH)

    vm = harness.boot_spec(image)
    done = harness.confined("policy", "remove")
    assert done.returncode == 125
    assert "is running" in done.stderr
    assert harness.power_off(vm) == 0

    done = harness.confined("policy", "remove")
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(harness.LAUNCH)
    left = harness.run("find", "/usr/local", "/var/lib", "/run", "/etc/systemd", "/usr/bin/swtpm", "/usr/lib/qemu",
                       "-xdev",
                       "-context", "*:unlabeled_t:*", "-o", "-context", "*:svirt_image_t:*", "-o",
                       "-context", "*confined_qemu*").stdout  # fmt: skip
    assert left == ""
    done = harness.confined("policy", "status")
    assert (done.returncode, "not loaded" in done.stdout) == (1, True)

    _without_the_module(image)

    done = harness.confined("policy", "install")
    assert done.returncode == 0, done.stderr
    assert harness.confined("policy", "status").returncode == 0
    vm = harness.boot_spec(image)
    assert harness.context(harness.qemu_of(image.path)).startswith("system_u:system_r:svirt_t:s0:c")
    assert harness.power_off(vm) == 0
