"""Where a guest keeps what its builder puts there and its tests look for: both sides import this."""

AUDITED = "/usr/share/selinux/packages/with-dontaudit.policy"
"""The policy as hosts have it, that is with the dontaudit rules, which the guest's own is without."""
