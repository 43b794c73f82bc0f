"""QEMU's own command line: what it names, read as QEMU reads it."""
