"""Chains of real images, read by the real qemu-img: what is followed is what QEMU itself would open."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confined_qemu.host import probe
from confined_qemu.model.context import Context
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.resource import PROBED, Access, Resource, Role, Sharing
from integration.suite import headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = st.text(st.sampled_from(",= '\"\\\n-a.%\u00e9"), min_size=1, max_size=6).filter(
    lambda text: text.strip(".") != ""
)
FORMATS = ("qcow2", "vmdk", "qed")


def follow(path: object, form: str = "qcow2", *, confined: bool = False) -> Invocation:
    top = Resource(str(path), Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disks[0].file", form)
    return probe.follow(Invocation("x", "qemu", (), (top,)), confined=confined)


def paths(found: Invocation) -> list[str]:
    assert found.problems == ()
    return [os.path.normpath(resource.path) for resource in found.resources]


def create(path: str, form: str, backing: str | None = None, below: str | None = None) -> None:
    on = ["-b", backing, "-F", below] if backing is not None and below is not None else []
    size = [] if on else ["1M"]
    done = subprocess.run(
        ["qemu-img", "create", "-q", "-f", form, *on, path, *size], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """Draw formats, folders and names from the lowest layer up; each format can say what lies below."""
    found = [(draw(st.sampled_from(("raw", *FORMATS))), "", "0")]
    for number in range(draw(st.integers(1, 4))):
        below, _, name = found[-1]
        # a vmdk says its backing file as a line of text, in quotes
        quotable = not set(name) & set('"\n\r')
        possible = ["qcow2"] + (["qed"] if below == "raw" else [])
        possible += ["vmdk"] if below == "vmdk" and quotable else []
        found.append((draw(st.sampled_from(possible)), draw(st.sampled_from(("", "sub"))), f"{draw(NAMES)}{number}"))
    return found


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(drawn=chains(), absolute=st.booleans())
def test_what_is_followed_is_what_qemu_would_open(drawn: list[tuple[str, str, str]], *, absolute: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "sub"))
        last: str | None = None
        below = ""
        for form, place, name in drawn:
            path = os.path.join(folder, place, name)
            start = os.path.dirname(path)
            backing = None if last is None else (last if absolute else f"./{os.path.relpath(last, start)}")
            create(path, form, backing, below)
            last, below = path, form
        oracle = subprocess.run(
            ["qemu-img", "info", "-f", below, "--backing-chain", "--output=json", str(last)],
            capture_output=True, check=True,
        )  # fmt: skip
        expected = [os.path.normpath(layer["filename"]) for layer in json.loads(oracle.stdout)]
        assert paths(follow(last, below)) == expected
        with in_a_domain() as runs:
            assert paths(follow(last, below, confined=True)) == expected
        # a disk, and whatever lies below its first backing file; a raw one ends it
        assert len(runs) <= 2


@contextlib.contextmanager
def in_a_domain() -> Iterator[list[list[str]]]:
    """Let qemu-img run as if it had entered a domain; what it was run with is added to the list."""
    runs = []

    def run(command: list[str], _context: object, owner: tuple[int, int], patience: float) -> str:
        runs.append(command)
        return real(command, None, owner, patience)

    real = probe.run
    with (
        mock.patch.object(probe, "_domain", return_value=Context.parse("u:r:t:s0")),
        mock.patch.object(probe, "run", run),
    ):
        yield runs


def test_extents_and_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for subformat, count in (("monolithicSparse", 0), ("monolithicFlat", 1), ("twoGbMaxExtentSparse", 1)):
        name = f"{subformat}.vmdk"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", name, "1M"], check=True
        )
        found = paths(follow(tmp_path / name, "vmdk"))
        assert len(found) == 1 + count
        assert all(os.path.exists(path) for path in found)
    # measured: the name in a qcow2 starts at the folder in which QEMU works, not at the image's
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "d.qcow2", "1M"], check=True)
    assert paths(follow("d.qcow2")) == ["d.qcow2", str(tmp_path / "data.raw")]
    read = ["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", str(tmp_path / "d.qcow2")]
    assert subprocess.run(read, capture_output=True, check=False).returncode == 0
    assert subprocess.run(read, cwd="/", capture_output=True, check=False).returncode != 0


MEASURED = 50
"""How often qemu-img is asked to measure: on a fast machine about every second time comes to nothing."""


@pytest.mark.parametrize("form", ["qcow2", PROBED])
def test_an_encrypted_image_is_read_without_its_key(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.qcow2"
    secret = ["--object", "secret,id=s,data=x"]
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    create = ["qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, str(path), "1M"]
    # it measures a first try by the process's CPU time, and fails where the kernel's clock saw none of it
    for _ in range(MEASURED):
        done = subprocess.run(create, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert (done.returncode, done.stderr) == (0, "")
    assert paths(follow(path, form)) == [str(path)]


def test_three_hundred_layers_are_too_many(tmp_path: Path) -> None:
    headers.overlay(str(tmp_path / "template"), "0000", "qcow2")
    template = (tmp_path / "template").read_bytes()
    assert template.count(b"0000") == 1
    for number in range(300):
        (tmp_path / f"{number:04}").write_bytes(template.replace(b"0000", b"%04d" % (number + 1)))
    found = follow(tmp_path / "0000")
    (problem,) = found.problems
    assert f"more than {probe.DEEPEST} layers" in problem
    assert len(found.resources) == probe.DEEPEST + 2


NOISE = {
    "first bytes and no more": b"QFI\xfb",
    "all ones": b"QFI\xfb\0\0\0\3" + b"\xff" * 65536,
    "version 4": b"QFI\xfb\0\0\0\4" + bytes(65536),
    "a backing name of a gigabyte": b"QFI\xfb\0\0\0\3" + (b"\0" * 7 + b"\x68" + b"\x40\0\0\0") + bytes(65536),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(NOISE[kind])
    found = follow(path)
    assert len(found.resources) == 1
    assert "qemu-img cannot read its header" in found.problems[0]


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_flipped_bytes_do_more_than_name_files(data: st.DataObject) -> None:
    """A real header with bytes changed anywhere in it: an answer or a problem, in bounded time, nothing written."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a")
        headers.qcow2(path, b"/nowhere", (headers.FEATURE_NAMES, b""), (headers.BACKING_FORMAT, b"raw"))
        with open(path, "r+b") as file:
            header = bytearray(file.read(160))
            for place, value in data.draw(st.lists(st.tuples(st.integers(4, 159), st.integers(0, 255)), max_size=6)):
                header[place] = value
            file.seek(0)
            file.write(header)
        found = follow(path)
        for layer in found.resources[1:]:
            assert layer.named_by == path
        with open(path, "rb") as file:
            assert file.read(160) == header
        assert os.listdir(folder) == ["a"]
