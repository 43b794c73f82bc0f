"""A libvirt domain's XML to a VM, and what of it a VM of ours has not. Pure."""
