"""From an accepted plan to QEMU: the steps, what is started beside it, and the exec."""
