"""Start QEMU confined by SELinux's sVirt, without libvirtd."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing's own, which costs every start
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import ClassVar

__version__ = "0.1.0"


class FormerNames:
    """Finds modules by names that they had, for what an upgrade of the package does not replace.

    An installed launch script imports by the names of the version that wrote it, and a watcher by those of the version
    that started it, once its VM has ended. A name stays here as long as such a script or watcher may.
    """

    NOW: ClassVar[dict[str, str]] = {
        "beside": "launch.companions",
        "beside.survivors": "launch.companions.survivors",
        "dropin": "cli.launchscript",
        "errors": "model.errors",
        "locks": "host.locks",
        "restore": "labels",
        "restore.restore": "labels.restore",
    }

    @classmethod
    def find_spec(cls, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Return how to import a module by a former name (importlib.abc.MetaPathFinder)."""
        if name.removeprefix(f"{__name__}.") not in cls.NOW:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, cls())  # type: ignore[arg-type]  # it has the two methods that are called

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module of today (importlib.abc.Loader)."""
        from importlib import import_module

        return import_module(f"{__name__}.{self.NOW[spec.name.removeprefix(f'{__name__}.')]}")

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is: it was executed under its own name (importlib.abc.Loader)."""


# before the finder of files, which would load a moved module of a moved folder a second time
sys.meta_path.insert(0, FormerNames)
