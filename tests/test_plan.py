"""Plans as people and programs see them: golden texts, one folder for each case.

`spec.yaml`, `domain.xml` or `argv` (an argument a line; `env` has variables, and what `-readconfig` names lies beside
it) is what was asked for, `host.json` what is special about the host (tests/worlds.py), `plan.txt` what comes of it,
and `plan.json` too in the cases that together show every form that the JSON has. `pytest --update` writes the last two
anew; an empty `plan.json` adds a case to those.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from confined_qemu.launch import inputs
from confined_qemu.model.errors import message
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import AccelChoice, Plan, PlannedResource
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.steps import Create, MakeFolder
from confined_qemu.plan.planner import plan
from confined_qemu.read import settings
from tests.conftest import GOLDEN
from tests.fakes import VIRT_IMAGE
from tests.messages import is_message
from tests.strategies import hostile, stray
from tests.worlds import HERE, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from confined_qemu.model.invocation import Invocation

CASES = sorted(os.listdir(os.path.join(GOLDEN, "plan")))
KEYS = (
    "schema", "name", "emulator", "argv", "accel", "confinement", "process_context", "resources", "warnings",
    "refusals",
)  # fmt: skip
HELD_KEYS = ("landlock", "hardening")
"""What a plan has where Landlock holds the VM, and where anything does and it is started."""
RESOURCE_KEYS = ("path", "role", "access", "class", "source", "context", "restore")


def text_of(case: str, name: str) -> str | None:
    try:
        with open(os.path.join(GOLDEN, "plan", case, name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def asked(case: str, monkeypatch: pytest.MonkeyPatch) -> Invocation:
    argv = text_of(case, "argv")
    if argv is not None:
        monkeypatch.setattr(inputs, "_config", lambda path: text_of(case, path))
        environment = dict(line.partition("=")[::2] for line in (text_of(case, "env") or "").splitlines())
        chosen = settings.from_environment(environment)
        return inputs.from_arguments("qemu-system-x86_64", argv.splitlines(), settings=chosen)
    domain = text_of(case, "domain.xml")
    spec = domain or text_of(case, "spec.yaml") or ""
    monkeypatch.setattr(inputs, "_text", lambda _: spec)
    return inputs.from_spec(f"{HERE}/{case}.{'xml' if domain else 'yaml'}")


def planned(case: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return the case's plan; a plan is the same for the same facts."""
    invocation = asked(case, monkeypatch)
    world = World(**json.loads(text_of(case, "host.json") or "{}"))
    invocation = world.followed(invocation)
    facts = world.facts(invocation)
    if world.policy is None:
        facts = replace(facts, selinux=replace(facts.selinux, own=None, caller=None))
    made = plan(invocation, facts, world.rules())
    assert plan(invocation, facts, world.rules()) == made
    return made


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]) -> None:
    made = planned(case, monkeypatch)
    golden(f"plan/{case}/plan.txt", made.describe() + "\n")
    if text_of(case, "plan.json") is not None:
        golden(f"plan/{case}/plan.json", json.dumps(made.to_json(), indent=1) + "\n")
    check_shape(made.to_json())


def forms(printed: dict[str, Any]) -> set[tuple[object, ...]]:
    """Return what a plan's JSON has an example of."""
    found: set[tuple[object, ...]] = {
        ("given", "given" in printed),
        ("accel", printed["accel"]["chosen"]),
        ("confinement", printed["confinement"]),
        *((key, bool(printed[key])) for key in ("process_context", "warnings", "refusals")),
    }
    for resource in printed["resources"]:
        found |= {(key, resource[key]) for key in ("access", "class")}
        found |= {(key, resource[key] is None) for key in ("context", "restore")}
        found.add(("role", resource["role"], resource["class"]))
    return found


def test_every_form_of_the_json_is_in_a_golden_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {form for case in CASES for form in forms(planned(case, monkeypatch).to_json())}
    texts = [text for case in CASES if (text := text_of(case, "plan.json")) is not None]
    assert made == {form for text in texts for form in forms(json.loads(text))}


def check_shape(printed: dict[str, Any]) -> None:
    held = printed["confinement"]
    assert tuple(key for key in printed if key not in {"given", *HELD_KEYS}) == KEYS
    assert ("landlock" in printed) >= (held == "landlock")
    if not printed["refusals"] and printed["argv"][-1] != "-version":
        assert ("hardening" in printed) is (held != "none")
    assert printed.get("given") != printed["argv"]
    assert printed["schema"] == 1
    assert tuple(printed["accel"]) == ("chosen", "why")
    assert printed["argv"][0] == printed["emulator"]
    for resource in printed["resources"]:
        assert tuple(resource) == RESOURCE_KEYS
        assert resource["access"] in {"ro", "rw", "wo", "create", "dir", "connect", "listen"}
        assert resource["class"] in {"private", "shared", "content", "unlabelled"}
        assert os.path.isabs(resource["path"])
    assert all(map(is_message, (*printed["warnings"], *printed["refusals"])))


@given(hostile | stray)
def test_a_plan_is_a_line_for_each_thing_and_its_json_is_ascii(text: str) -> None:
    resource = Resource(text, Role.DISK, Access.READ, Sharing.CONTENT, text)
    made = Plan(
        name=text,
        emulator=f"/{text}",
        arguments=(text, ""),
        accel=AccelChoice("tcg", text, tcg=True),
        confinement="selinux",
        process=None,
        pair=None,
        resources=(PlannedResource(resource, text, VIRT_IMAGE, None),),
        steps=(MakeFolder(text, VIRT_IMAGE), Create(text, VIRT_IMAGE, VIRT_IMAGE, remove=True)),
        warnings=(message(text),),
        refusals=(message(text, text),),
    )
    lines = made.describe().split("\n")
    assert len(lines) == 9
    assert all(line.isprintable() for line in lines)
    printed = json.dumps(made.to_json())
    assert printed.isascii()
    assert json.loads(printed)["argv"] == [f"/{text}", text, ""]
