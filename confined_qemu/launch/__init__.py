"""From an accepted plan to QEMU: the steps, the processes that are started, and the exec."""
