"""Every decision about one VM, made before anything is done. Pure."""
