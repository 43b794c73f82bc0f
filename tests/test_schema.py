"""The JSON Schema is the loader's own table: what one takes, the other takes, where a schema can say it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given

from confined_qemu.read.spec import loader, schema
from confined_qemu.read.spec.table import DISK, DISK_LABEL, NETWORK, SECLABEL, SHARE, SPEC, TPM
from tests.strategies import spec_documents

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
BAD = sorted((HERE / "golden" / "bad").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(schema.schema())
BEYOND_A_SCHEMA = {
    "category-out-of-range": "a number inside a text",
    "backwards-range": "two levels compared",
    "duplicate-key": "gone when a schema sees the document",
    "empty-value": "the same null as kernel: null, which is a text here",
    "file-twice": "two values compared",
    "ide-full": "a count across two keys",
    "share-tags": "two values compared",
    "merge-key": "resolved when a schema sees the document",
    "nul": "a text like any other to JSON",
    "two-documents": "each one is good",
}


def test_it_is_a_schema_and_refuses_something() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    assert VALIDATOR.is_valid({"name": "x"})
    assert not VALIDATOR.is_valid({"name": "x", "bogus": 1})
    assert not VALIDATOR.is_valid({})


def test_the_file_is_the_generated_text() -> None:
    assert (CONFIGS / "confined-qemu.schema.json").read_text() == schema.text()


def test_every_key_is_described_and_has_its_default() -> None:
    for table in (SPEC, DISK, DISK_LABEL, NETWORK, SECLABEL, TPM, SHARE):
        for name, key in table.schema()["properties"].items():
            assert key["description"].endswith("."), name
    keys = SPEC.schema()["properties"]
    assert keys["memory"]["default"] == "128M"
    assert keys["serial"]["default"] == "null"
    assert keys["require_domain"]["default"] is False


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_good(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_what_the_loader_refuses_the_schema_refuses(path: Path) -> None:
    documents: list[Any] = []
    with suppress(yaml.YAMLError, UnicodeDecodeError):
        documents = list(yaml.safe_load_all(path.read_bytes().decode()))
    good = bool(documents) and all(VALIDATOR.is_valid(document) for document in documents)
    assert good == (path.stem in BEYOND_A_SCHEMA)


@given(spec_documents())
def test_what_the_loader_takes_the_schema_takes(document: dict[str, Any]) -> None:
    loader.parse(yaml.safe_dump(document), "f.yaml")
    VALIDATOR.validate(document)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "FALSE"])
def test_words_that_only_yaml_1_1_takes_for_a_truth(word: str) -> None:
    # An editor that reads YAML 1.2 hands these over as texts.
    assert VALIDATOR.is_valid({"name": "x", "require_domain": word})
    loader.parse(f"name: x\nrequire_domain: {word}", "f.yaml")
