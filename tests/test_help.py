"""README, the help topics and the man pages: they quote what is true, name what there is, and can be shown."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.cli import command, manpages
from confined_qemu.cli import help as topics
from confined_qemu.cli.arguments import Parser
from integration.guestlib import bypolicy, readme

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOPICS = topics.topics()
WANTED = """
adding-tests campaigns clients command-line denials design devices fedora hot-plug images labels landlock mls
performance seclabel security shares spec streams tests xen
""".split()  # noqa: SIM905 - a table
DATE = "2026-01-01"


def said(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = command.main(words)
    return code, out.getvalue(), err.getvalue()


# ---- what is written


def test_what_quotes_code_quotes_it_as_it_is() -> None:
    for name, text in readme.quoted().items():
        assert readme.read(name) == text, "run: python3 -m integration.guestlib.readme"


def test_readme_is_short_and_has_its_parts_in_order() -> None:
    lines = readme.read("README.md").split("\n")
    assert len(lines) <= 201  # 200 and what follows the last newline
    assert [line for line in lines if line.startswith("## ")] == [
        "## Install", "## Drop-in", "## A VM in YAML", "## Verbs", "## What it does not protect from",
        "## Where to read on", "## Contributing",
    ]  # fmt: skip


def test_both_families_of_distributions_are_served_on_the_first_screen() -> None:
    first = "\n".join(readme.read("README.md").split("\n")[:20])
    assert "apt install qemu-system-x86 " in first
    assert "dnf install qemu-system-x86-core " in first
    assert "qemu-kvm" in first


def test_the_table_of_verbs_has_each_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    table = readme.block(readme.read("README.md"), "verbs")
    told = set(re.findall(r"^\| `([a-z-]+)[ `]", table, re.MULTILINE))
    verbs = set[str]()
    parse = Parser.parse_args

    def noted(parser: Parser, *words: Any) -> Any:
        verbs.update(_verbs(parser))
        return parse(parser, *words)

    monkeypatch.setattr(Parser, "parse_args", noted)
    assert said("schema")[0] == 0
    assert told == verbs


def _verbs(parser: Parser) -> set[str]:
    return {name for action in parser._actions if isinstance(action.choices, dict) for name in action.choices}


def test_each_test_of_the_guest_runs_each_time_and_under_fedoras_policy_or_mls() -> None:
    rows = list(bypolicy.rows())
    assert len(rows) > 100
    assert [row for row in rows if bypolicy.EACH not in row] == []
    assert [row for row in rows if row[3] == bypolicy.NONE and not row[0].startswith("mls/")] == []


def test_each_topic_is_there_and_says_what_it_explains() -> None:
    assert TOPICS == WANTED
    for topic in TOPICS:
        assert topics.source(topic).startswith(f"# {topic}: ")
        assert manpages.about(topics.source(topic))


@pytest.mark.parametrize("name", ["README.md", *(f"{readme.HELP}/{topic}.md" for topic in TOPICS)])
def test_links_lead_to_files_that_are_there(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", readme.read(name)):
        assert os.path.isfile(os.path.join(ROOT, os.path.dirname(name), target)), target


NO_DOMAINS = {"confined_qemu_var_lib_t", "confined_qemu_runtime_t", "confined_qemu_stdio_t"}
"""Types of files and pipes."""


def test_the_topic_security_has_each_domain_and_boolean_of_the_module() -> None:
    folder = os.path.join(ROOT, "confined_qemu", "install")
    declared = set[str]()
    for name in os.listdir(folder):
        if name.endswith(".cil"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                declared |= set(re.findall(r"^\((?:boolean|type) (\w+)", file.read(), re.MULTILINE))
    files = {name for name in declared if name.endswith("_exec_t")} | NO_DOMAINS
    assert files < declared
    told = set(re.findall(r"`(confined_qemu_\w+)`", topics.source("security")))
    assert told == declared - files


def test_messages_name_topics_that_are_there() -> None:
    named = set[str]()
    for folder, _, names in os.walk(os.path.join(ROOT, "confined_qemu")):
        for name in names:
            if name.endswith(".py"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    named |= set(re.findall(r"confined-qemu help ([a-z][a-z-]+)", file.read()))
    assert "shares" in named
    assert named <= set(TOPICS)


# ---- what is shown


def test_without_a_topic_all_are_listed() -> None:
    code, out, err = said("help")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line][:-1] == WANTED
    assert all(len(line) <= 100 for line in out.splitlines())
    assert out.isascii()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_shown_as_plain_text(topic: str) -> None:
    code, out, err = said("help", topic)
    assert (code, err) == (0, "")
    assert out.startswith(f"{topic}: ")
    assert out.isascii()
    prose = "\n".join(line for line in out.splitlines() if not line.startswith("    "))
    assert not re.search(r"```|<!--|\]\(|^\||^#|`", prose, re.MULTILINE)


def test_an_unknown_topic_is_one_line() -> None:
    code, out, err = said("help", "me\n")
    assert (code, out) == (125, "")
    assert err.count("\n") == 2
    assert all(topic in err for topic in TOPICS)


def test_a_table_is_aligned_or_where_it_is_wide_a_list() -> None:
    narrow = manpages.blocks("| a | b |\n|---|---|\n| `x` | y \\| z |\n| long | 1 |\n")[0].rows
    assert manpages.columns(narrow) == ["a     b", "x     y | z", "long  1"]
    wide = (("what", "label", "end"), ("file", "x" * 80, ""), ("other", "y", "z"))
    assert manpages.columns(wide) is None
    assert manpages.entries(wide) == [("file", [f"label: {'x' * 80}"]), ("other", ["label: y", "end: z"])]


def test_the_measured_tables_fit_a_terminal() -> None:
    """As lists they would lose the first column's name, which says where it was measured."""
    tables = [block.rows for block in manpages.blocks(topics.source("performance")) if block.kind == "table"]
    assert len(tables) > 1
    assert all(manpages.columns(table) is not None for table in tables)


@pytest.mark.touches_host
@pytest.mark.parametrize(("pager", "shown"), [("sed s/^/paged:/", "paged:streams: "), ("no-such-pager", "streams: ")])
def test_a_terminal_gets_the_pager(pager: str, shown: str) -> None:
    main, side = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-B", "-m", "confined_qemu", "help", "streams"],
        cwd=ROOT,
        env={**os.environ, "PAGER": pager},
        stdin=subprocess.DEVNULL,
        stdout=side,
        check=True,
    )
    os.close(side)
    assert done.returncode == 0
    assert os.read(main, 100).decode().startswith(shown)
    os.close(main)


# ---- man pages


def test_markdown_becomes_man() -> None:
    source = (
        '# x: what *it* is\n\nSome `a-b \'~^` and **bold**, see [mls](mls.md) or [spec](spec.md)…\n.dot \\ "quoted"\n\n'
        "- one\n  goes on\n- two\n\n## Part\n\n```\n.not a request\n```\n\n### Sub\n\ntext\n\nmore\n"
    )
    assert manpages.page("x", source, DATE).splitlines() == [
        '.TH "CONFINED-QEMU-X" 7 "2026-01-01" "confined-qemu" "confined-qemu"',
        ".SH NAME",
        r"confined\-qemu\-x \- what \fIit\fP is",
        ".SH DESCRIPTION",
        r"Some \fBa\-b \(aq\(ti\(ha\fP and \fBbold\fP, see \fBconfined\-qemu\-mls\fP(7) or "
        r"\fBconfined\-qemu.yaml\fP(5)\[u2026] .dot \e \(dqquoted\(dq",
        r'.IP "\(bu" 4',
        "one goes on",
        r'.IP "\(bu" 4',
        "two",
        '.SH "PART"',
        ".RS 4",
        ".nf",
        r"\&.not a request",
        ".fi",
        ".RE",
        '.SS "Sub"',
        "text",
        ".PP",
        "more",
    ]


@pytest.mark.touches_host
@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_has_nothing_that_mandoc_warns_of(topic: str) -> None:
    page = manpages.page(topic, topics.source(topic), DATE)
    mandoc = shutil.which("mandoc")
    assert mandoc is not None, "mandoc is missing; integration/setup.sh installs it"
    done = subprocess.run(
        [mandoc, "-Tlint", "-Wwarning"], input=page, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.touches_host
def test_the_wheel_has_topics_and_pages(tmp_path: Path) -> None:
    shutil.copytree(os.path.join(ROOT, "confined_qemu"), tmp_path / "confined_qemu")
    shutil.copy(os.path.join(ROOT, "pyproject.toml"), tmp_path)
    (tmp_path / "README.md").write_text("")
    build = [sys.executable, "-B", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tmp_path)]
    subprocess.run(build, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    listing = [sys.executable, "-m", "zipfile", "-l", str(wheel)]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    for topic in TOPICS:
        name, section = manpages.name_of(topic)
        assert f"confined_qemu/help/{topic}.md " in names
        assert f".data/data/share/man/man{section}/{name}.{section} " in names
    assert "buildhook" not in names
