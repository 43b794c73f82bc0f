"""The SELinux module that the project ships, and its installation."""
