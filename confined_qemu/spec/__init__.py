"""A VM as a person writes it down: YAML in, a VM and QEMU's arguments out."""
