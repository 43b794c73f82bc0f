"""Looks at the host, and changes nothing."""
