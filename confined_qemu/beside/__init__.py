"""What stays beside a VM while it runs: small programs of their own, executed by path."""
