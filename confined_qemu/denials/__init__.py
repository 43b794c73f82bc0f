"""What SELinux denied, and what each denial means. Pure."""
