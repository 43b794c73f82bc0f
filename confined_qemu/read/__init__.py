"""Text to an Invocation: what a person or a program wrote, and what QEMU will open for it. Pure."""
