"""What a person or a program types, and what it is told."""


def denials_script() -> int:
    """Serve the labelled script that reads the audit log, which imports this name, whatever version wrote it."""
    from confined_qemu.cli.command import denials_script as serve

    return serve()
