"""Debian's own Xen has no Flask, and xl starts an unlabelled domain there: the launcher does not."""

from __future__ import annotations

import json
import os

from integration.suite_xen import dom0
from integration.suite_xen.dom0 import Spec


def test_a_xen_without_flask_is_refused_where_xl_would_start_the_domain(folder: str) -> None:
    spec = Spec(folder, "open", "poweroff", dom0.static("system_u:system_r:nosuch_t"))
    path = spec.write()
    done = dom0.confined("plan", "--json", path)
    plan = json.loads(done.stdout)
    assert done.returncode == 125
    assert any("this Xen has no Flask" in line for line in plan["refusals"])
    assert "fail  flask: this Xen has no Flask" in dom0.confined("check").stdout
    assert "this Xen has no Flask" in dom0.refused("run", path)
    assert dom0.label(spec.image) == dom0.UNUSED
    # the same words, handed to xl: it warns, and starts the domain
    config = os.path.join(folder, "open.cfg")
    with open(config, "w", encoding="utf-8") as file:
        file.write(plan["config"])
    dom0.run("xl", "create", "-p", config)
    assert list(dom0.domains()) == ["open"]
    dom0.run("xl", "destroy", "open")
