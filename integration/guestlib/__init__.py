"""Builds, boots and talks to the SELinux-enforcing guest that the integration tests run in."""
