"""README.md quotes other files as they are."""

from __future__ import annotations

from integration.guestlib import readme


def test_the_readme_quotes_spec_and_modules_as_they_are() -> None:
    with open(readme.README, encoding="utf-8") as file:
        text = file.read()
    assert readme.quoted(text) == text, "run: python3 -m integration.guestlib.readme"
