"""Looks at the host, and changes nothing; the doors to SELinux are here."""
