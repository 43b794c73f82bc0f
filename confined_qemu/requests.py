"""From what a person or a program typed to an Invocation: a spec file, or QEMU's own command line."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from confined_qemu.errors import HostError, SpecError, why
from confined_qemu.invocation import Confinement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confined_qemu.invocation import Invocation

_LARGEST_SPEC = 1 << 20
"""Bytes; a VM description is a page of text."""


def from_spec(
    path: str, extra: Sequence[str] = (), *, name: str | None = None, confinement: str | None = None
) -> Invocation:
    """Read the spec at `path`; `extra` are QEMU arguments that follow those of the spec.

    Raises:
        HostError: the file cannot be read.
        SpecError: it is no valid spec; every problem with its place.
        CommandLineError: `qemu_args` or `extra` cannot be read.
    """
    from confined_qemu import render, specfile

    vm = specfile.parse(_text(path), path)
    if extra:
        vm = replace(vm, qemu_args=(*vm.qemu_args, *extra))
    rendered = render.invocation(vm, os.path.dirname(os.path.abspath(path)))
    first = render.first_extra(vm, rendered)
    if first < len(rendered.arguments):
        from confined_qemu import cmdline

        rendered = _joined(rendered, first, cmdline.read(rendered.emulator, rendered.arguments[first:], name=vm.name))
    return _chosen(rendered, name, confinement)


def _joined(rendered: Invocation, first: int, extra: Invocation) -> Invocation:
    """Return the spec's invocation with its `qemu_args` (from argument `first` on) as they were read."""
    return replace(
        rendered,
        arguments=(*rendered.arguments[:first], *extra.arguments),
        resources=(*rendered.resources, *extra.resources),
        listeners=(*rendered.listeners, *(replace(one, index=one.index + first) for one in extra.listeners)),
        needs_tmpdir=rendered.needs_tmpdir or extra.needs_tmpdir,
        daemonize=rendered.daemonize or extra.daemonize,
        snapshot=rendered.snapshot or extra.snapshot,
    )


def from_arguments(
    emulator: str, arguments: Sequence[str], *, name: str | None = None, confinement: str | None = None
) -> Invocation:
    """Read a raw QEMU command line.

    Raises:
        CommandLineError: it names a host file in a way that cannot be followed.
    """
    from confined_qemu import cmdline

    return _chosen(cmdline.read(emulator, arguments, name=name), name, confinement)


def _chosen(invocation: Invocation, name: str | None, confinement: str | None) -> Invocation:
    if name is not None:
        invocation = replace(invocation, name=name)
    if confinement is not None:
        invocation = replace(invocation, confinement=Confinement(confinement))
    return invocation


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_SPEC + 1)
    except OSError as error:
        raise HostError(f"the spec cannot be read: {why(error)}", where=path) from error
    if len(data) > _LARGEST_SPEC:
        raise SpecError((f"{path}:1:1: larger than {_LARGEST_SPEC} bytes; is it a VM description?",))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise SpecError((f"{path}:{line}:{column}: not UTF-8 text; save the file as UTF-8",)) from error
