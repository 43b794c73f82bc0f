"""The JSON Schema of a spec, for editors: made of the table that the loader reads, so they cannot differ."""

from __future__ import annotations

import json

from confined_qemu.model.invocation import Hypervisor
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.spec.table import SPEC
from confined_qemu.read.spec.xentable import XEN

if TYPE_CHECKING:
    from typing import Any


DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The version of JSON Schema."""


def schema() -> dict[str, Any]:
    """Return the schema.

    The loader refuses more than a schema can say (duplicate keys, a file named twice, a range that runs
    backwards). Every text that the loader takes, the schema takes.
    """
    xen = {"properties": {"hypervisor": {"const": Hypervisor.XEN.value}}, "required": ["hypervisor"]}
    which = {"if": xen, "then": XEN.schema(), "else": SPEC.schema()}
    return {"$schema": DIALECT, "title": "confined-qemu VM", "type": "object"} | which


def text() -> str:
    """Return the text that `configs/confined-qemu.schema.json` holds and `confined-qemu schema` prints."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
