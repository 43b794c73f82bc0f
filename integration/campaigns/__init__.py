"""Campaigns: real files with real labels, and the code that a release has; only the numbers are large.

A file keeps a `security.selinux` attribute on a kernel without SELinux too, so that all that journals, labels and puts
back runs here as root. What a policy would answer is a table; what needs one, the plan and the exec into a VM's
context, is not here.
"""
