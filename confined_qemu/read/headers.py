"""What an image's header says about other files: `qemu-img info`'s answer for one layer, to the next layers. Pure.

The names are followed as QEMU does it (`block.c`, `bdrv_make_absolute_filename`; measured with 7.2): a plain backing
name starts at the folder of the image that has it, while names with a protocol, within `json:{…}` and of a qcow2's data
file start at QEMU's working directory. Headers are hostile: what is not understood is a problem, and the plan refuses.
"""

from __future__ import annotations

import json
import posixpath
import shlex

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import escape
from confined_qemu.model.errors import HINT, CommandLineError
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.resource import PROBED, Access, Resource, Role, Sharing
from confined_qemu.read.qemu.blocks import FILTERS, PROTOCOLS, expand, header_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SAYS_FORMAT = frozenset({"qcow2"})
"""Formats whose header has a place for the backing file's format (qed's says raw or nothing, qcow's nothing at all)."""
_FOLLOWED = frozenset({Role.BACKING, Role.DATA_FILE})
_WHOLE = {
    **{f"-hd{letter}": f",index={number}" if number else "" for number, letter in enumerate("abcd")},
    "-cdrom": ",media=cdrom",
    "-fda": ",if=floppy",
    "-fdb": ",if=floppy,index=1",
    "-mtdblock": ",if=mtd",
    "-pflash": ",if=pflash",
    "-sd": ",if=sd",
}
"""Options whose whole value is a disk's name, and what `-drive` calls them."""
_LOST = "\N{REPLACEMENT CHARACTER}"
"""What QEMU's JSON writer puts in the place of bytes that are not UTF-8 (`qobject/json-writer.c`)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a chain: `depth` 0 is the disk itself, whose source is `root`."""

    image: Resource
    root: str
    depth: int = 0

    @classmethod
    def top(cls, image: Resource) -> Layer:
        """Return the first layer of a disk."""
        return cls(image, image.source)

    def problem(self, what: str) -> str:
        """Return a line about this image."""
        return f"{self.image.path} ({self.image.source}): {what}"


@dataclass(frozen=True, slots=True)
class Names:
    """What one header names: layers to look into in their turn, and why something of it cannot be followed."""

    layers: tuple[Layer, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """What is no file of the host: a server of another machine's."""


class _HeaderError(Exception):
    """The header names something that cannot be followed; the message says what and how to mend it."""


def names(answer: str, layer: Layer, folder: str) -> Names:
    """Return what the header of `layer` names, from `qemu-img info --output=json`'s answer about it alone.

    `folder` is QEMU's working directory. An image for which QEMU is told no format may name nothing: a guest that
    could write it may have written the header.
    """
    try:
        info = _object(json.loads(answer))
        if layer.image.format == PROBED:
            _refuse_probed(info, layer, folder)
            return Names()
        return Names(tuple(_named(info, layer, folder)), remarks=tuple(_servers(info, layer)))
    except (ValueError, RecursionError):
        return Names(problems=(layer.problem("qemu-img's answer about this image cannot be read"),))
    except _HeaderError as error:
        return Names(problems=(layer.problem(str(error)),))


def chain(answers: str) -> list[tuple[str, str]]:
    """Return each layer's name and what `qemu-img info --backing-chain --output=json` says of it, as `names` takes it.

    A name is as the headers have it, and is to be compared only. Empty where the text is none of qemu-img's.
    """
    try:
        found = json.loads(answers)
        return [(_text(_object(one), "filename"), json.dumps(one)) for one in found] if isinstance(found, list) else []
    except (ValueError, RecursionError):
        return []


def is_about(answer: str, layer: Layer) -> bool:
    """Tell whether an answer of a chain's was found by the format that this layer is to be read with.

    Where the format is to be detected, the whole chain's run has done the same.
    """
    form = layer.image.format
    return form in (None, PROBED) or _text(_object(json.loads(answer)), "format") == form


def _named(info: dict[str, Any], layer: Layer, folder: str) -> Iterator[Layer]:
    image = layer.image
    if Role.DATA_FILE not in image.stated and (name := _data_name(info)):
        yield _layer(layer, posixpath.join(folder, _local(name, "a data file")), "data file")
    for number, name in enumerate(_extents(info, posixpath.join(folder, image.path))):
        yield _layer(layer, posixpath.join(folder, _local(name, "an extent")), f"extent {number + 1}")
    if Role.BACKING not in image.stated and (name := _text(info, "backing-filename")):
        yield from _backing(name, _text(info, "backing-filename-format"), layer, folder)


def _servers(info: dict[str, Any], layer: Layer) -> Iterator[str]:
    """Yield a line where the backing file is a server's: QEMU connects to what a header names."""
    name = _text(info, "backing-filename")
    if Role.BACKING in layer.image.stated or not name:
        return
    try:
        found = header_files(layer.root, expand("backing file", name), None)
    except CommandLineError:
        return  # that is a problem, said elsewhere
    if not found:
        yield layer.problem(f"its header names {name}, which QEMU connects to")


def _data_name(info: dict[str, Any]) -> str:
    return _text(_object(_object(info.get("format-specific")).get("data")), "data-file")


def _extents(info: dict[str, Any], own: str) -> list[str]:
    """Return the names of a vmdk's extents without the image itself, which is `own` to qemu-img."""
    extents = _object(_object(info.get("format-specific")).get("data")).get("extents")
    found = [_text(_object(extent), "filename") for extent in extents] if isinstance(extents, list) else []
    return [name for name in found if name not in ("", own)]


def _refuse_probed(info: dict[str, Any], layer: Layer, folder: str) -> None:
    image, found = layer.image, _text(info, "format")
    if not (info.get("backing-filename") or _data_name(info) or _extents(info, posixpath.join(folder, image.path))):
        return
    mend = f"state it: {_with_format(image, found)}, or format=raw if it is a raw disk"
    if image.named_by is not None:
        mend = f"convert {image.named_by} above it to qcow2, which states it: qemu-img convert -B … -F {found}"
    raise _HeaderError(
        f"format not stated: QEMU would detect {found} and open the files that the header names, "
        f"and a guest may have written that header{HINT}{mend}"
    )


def _with_format(image: Resource, form: str) -> str:
    """Return how the format is said: options such as `-hda` have no place for it."""
    words = _WHOLE.get(image.source.partition(" ")[0]) if "=" not in image.source else None
    if words is None:
        return f"format={form}"
    return f"-drive file={shlex.quote(escape(image.path))},format={form}{words} in the place of {image.source}"


def _layer(layer: Layer, path: str, what: str) -> Layer:
    """Return a file that holds an image's data; it is used as the image itself is."""
    image = layer.image
    shareable = image.sharing is Sharing.SHARED
    found = hostpaths.resource(
        path, Role.DATA_FILE, image.access, f"{image.source}, {what}", shareable=shareable, format="raw"
    )
    return replace(layer, image=_owned(found, path, image))


def _backing(name: str, form: str, layer: Layer, folder: str) -> Iterator[Layer]:
    image = layer.image
    source = f"{layer.root}, backing {layer.depth + 1}"
    name = _plain(name, "a backing file")
    try:
        options = expand("backing file", name)
        stated = form or options.get("driver", "") or _unstated(name, image)
        if set(options) == {"filename"}:
            options = {"filename": posixpath.join(posixpath.dirname(image.path), name)}
        if name.startswith("json:"):
            options = {**options, "driver": stated}
        found = header_files(source, options, _format(stated))
    except CommandLineError as error:
        raise _HeaderError(f"the backing file that its header names cannot be used: {error.what}") from error
    for resource in found:
        if resource.access is Access.CONNECT:
            # a server's socket keeps its label, and the policy decides
            yield Layer(replace(resource, named_by=image.path), layer.root, layer.depth + 1)
            continue
        if resource.role not in _FOLLOWED or resource.access is not Access.READ:
            raise _HeaderError(
                f"its header wants {resource.path} as {resource.role} ({resource.access}): a header may only name "
                "backing files that are read"
            )
        whole = name.startswith("json:")  # which has escapes of its own
        path = posixpath.join(folder, _plain(resource.path, "a backing file") if whole else resource.path)
        yield Layer(_owned(replace(resource, path=path), path, image), layer.root, layer.depth + 1)


def _format(stated: str) -> str | None:
    """Return the format of what the driver `stated` stands above, None where QEMU looks itself."""
    if stated in FILTERS or stated == PROBED:
        return None
    return "raw" if stated in PROTOCOLS else stated


def _owned(found: Resource | None, path: str, image: Resource) -> Resource:
    """Return a file that `image` names, under the disk's seclabel: a layer inherits its parent's, as in libvirt."""
    if found is None or hostpaths.inherited(path):
        raise _HeaderError(f"its header names {path}, a descriptor of the process that reads it and no file")
    return replace(found, label=image.label, relabel=image.relabel, named_by=image.path)


def _local(name: str, what: str) -> str:
    """Return the name of a file that QEMU may take for a path only."""
    if ":" in name.partition("/")[0]:
        # QEMU before the fix of CVE-2024-4467 reads a protocol in a data file's name, later ones a file called so
        raise _HeaderError(
            f"{what} in its header is called {name!r}, which some versions of QEMU read as a protocol"
            f"{HINT}name it with its folder"
        )
    return _plain(name, what)


def _plain(name: str, what: str) -> str:
    if _LOST in name or "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise _HeaderError(f"the name of {what} in its header is not UTF-8{HINT}rename that file")
    return name


def _unstated(name: str, image: Resource) -> str:
    """Return that the backing file is to be probed as QEMU will, where the header could not say its format.

    Raises:
        _HeaderError: it could have, and one command mends it.
    """
    if image.format not in _SAYS_FORMAT:
        return PROBED
    words = f"-b {shlex.quote(name)} {shlex.quote(image.path)}"
    raise _HeaderError(
        "its header names a backing file without a format, so QEMU would detect it from bytes that a guest can write"
        f"{HINT}run: qemu-img rebase -u -f {image.format} -F FORMAT {words}"
        f"{HINT}where FORMAT is what it is, such as raw or qcow2"
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""
