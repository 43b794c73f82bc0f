"""QEMU's own command line: every host file that it names, read as QEMU reads it. Pure."""
