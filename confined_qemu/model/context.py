"""The SELinux security context as a value, in the kernel's raw text form."""

from __future__ import annotations

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.mcs import Level, Range

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
"""The characters of a user, role or type."""
_FIELDS = ("user", "role", "type")


@dataclass(frozen=True, slots=True)
class Context:
    """`user:role:type[:range]`; `range` is None on a policy without levels."""

    user: str
    role: str
    type: str
    range: Range | None = None

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read a raw context; a trailing NUL, as the kernel's files give it, is allowed.

        Raises:
            ValueProblem: fewer than three fields, a strange character in a field, or a bad range.
        """
        fields = text.rstrip("\0").split(":", 3)
        if len(fields) < len(_FIELDS):
            raise ValueProblem(f"{text!r} is not an SELinux context such as system_u:system_r:svirt_t:s0:c1,c2")
        for name, field in zip(_FIELDS, fields, strict=False):
            if not field or field.strip(_NAME):
                raise ValueProblem(f"{text!r} is not an SELinux context: {field!r} is no {name}")
        return cls(fields[0], fields[1], fields[2], Range.parse(fields[3]) if len(fields) > len(_FIELDS) else None)

    def __str__(self) -> str:
        text = f"{self.user}:{self.role}:{self.type}"
        return text if self.range is None else f"{text}:{self.range}"

    def at(self, level: Level) -> Context:
        """Return the same context with both ends of its range at `level`."""
        return replace(self, range=Range.single(level))


RESTORED_TYPE = "virt_image_t"
"""The type of an image that no VM uses, in every policy with a virt module."""


@dataclass(frozen=True, slots=True)
class PolicyContexts:
    """The policy's contexts for VMs. `tcg` is None where the policy has one domain for both accelerators (Debian).

    `at_rest` is the type of an image that no VM uses.
    """

    kvm: Context
    tcg: Context | None
    image: Context
    content: Context
    at_rest: str = RESTORED_TYPE

    @classmethod
    def parse(cls, domain_text: str, image_text: str) -> PolicyContexts:
        """Read the two files: domain (KVM, then TCG where it has a line of its own) and image (private, content).

        Raises:
            ValueProblem: a line is missing or no context.
        """
        domains = _lines(domain_text, "virtual_domain_context", 1)
        images = _lines(image_text, "virtual_image_context", 2)
        return cls(domains[0], domains[1] if len(domains) > 1 else None, images[0], images[1])

    @property
    def domains(self) -> frozenset[str]:
        """The types that the policy gives to VMs."""
        return frozenset(context.type for context in (self.kvm, self.tcg) if context is not None)

    def restored(self) -> Context:
        """Return the label of an image that no VM uses, where nothing better is known."""
        return replace(self.image, type=self.at_rest, range=Range.single(Level(0)))

    def is_given(self, label: Context) -> bool:
        """Tell whether `label` is one that a VM's image got from us or from libvirt, not one of its own."""
        return label.type in (self.image.type, self.content.type)

    def is_a_vms(self, label: Context) -> bool:
        """Tell whether `label` is an image's at some VM's pair, so that it must not be trusted to stay readable."""
        return self.is_given(label) and label.range is not None and bool(label.range.low.categories)


def _lines(text: str, name: str, least: int) -> Sequence[Context]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) < least:
        raise ValueProblem(f"the policy's {name} has {len(lines)} of {least} contexts")
    return [Context.parse(line) for line in lines]
