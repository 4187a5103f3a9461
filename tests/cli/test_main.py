"""The front of the command line: its exit statuses, what it loads, what it says."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from optc import cli
from optc.cli import available, main, terminal
from optc.compiler.source import CompileError, Diagnostic, Source, Span


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Put a verb `probe` in place of `train`, with the function that it runs."""

    def install(run):
        module = ModuleType("probe")
        module.__spec__ = ModuleSpec("probe", None)
        module.HELP = "Probe."
        module.add_arguments = lambda parser: parser.add_argument("--json", action="store_true")
        module.run = run
        monkeypatch.setitem(sys.modules, "optc.cli.train", module)

    return install


def raises(error: BaseException):
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def wrong_spec() -> CompileError:
    source = Source("a.opt", "rule a():\n    step lr\n")
    first = Diagnostic("E201", "`lr` is not known", Span(source, 2, 10, 2, 12), "declare it")
    return CompileError([first, Diagnostic("E202", "nothing is written", Span(source, 1, 1, 1, 5))])


def test_a_verb_that_is_done_exits_with_its_status(verb):
    verb(lambda args: 0)
    assert main(["train"]) == 0


def test_a_wrong_spec_is_1_and_every_diagnostic_is_shown(verb, capsys):
    verb(raises(wrong_spec()))
    assert main(["train"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "a.opt:2:10: error[E201]: `lr` is not known" in err
    assert "help: declare it" in err
    assert "error[E202]" in err


def test_a_wrong_spec_as_json_goes_to_standard_output(verb, capsys):
    verb(raises(wrong_spec()))
    assert main(["train", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert [found["code"] for found in json.loads(out)] == ["E201", "E202"]
    assert json.loads(out)[0]["column"] == 10


def test_an_unknown_verb_is_2_and_the_nearest_is_suggested(capsys):
    assert main(["trian"]) == 2
    assert "did you mean `train`?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["train"], ["train", "a.opt", "--no"]])
def test_a_wrong_command_line_is_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: optc" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_and_version_are_0(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out


def test_a_missing_file_is_one_clear_line(verb, capsys):
    verb(lambda args: len(open("no/such.opt").read()))
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "optc: no/such.opt: there is no such file\n"


def test_an_interruption_is_130(verb, capsys):
    verb(raises(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_of_ours_stays_a_traceback(verb):
    verb(raises(AssertionError("a bug")))
    with pytest.raises(AssertionError):
        main(["train"])


def test_a_reader_that_has_gone_is_no_traceback():
    # Longer than any pipe's buffer, so that the write does meet the closed end.
    script = (
        "import sys; from optc import cli; from optc.cli import train\n"
        "train.run = lambda args: print('x' * 2_000_000) or 0\n"
        "sys.exit(cli.main(['train', 'a.opt']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == cli.BROKEN_PIPE


@pytest.mark.parametrize("name", available())
def test_every_verb_has_its_three_parts_and_loads_no_torch(name):
    """Only what executes loads torch, and only when it does: help and checks answer at once."""
    script = (
        "import importlib, sys; from optc.cli import main\n"
        f"assert main([{name!r}, '--help']) == 0\n"
        f"module = importlib.import_module('optc.cli.{name}')\n"
        "assert module.HELP and callable(module.run)\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


class Terminal:
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal_and_not_against_the_users_will(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.paint("a", "red", Terminal()) == "\x1b[31ma\x1b[0m"
    assert terminal.paint("a", "red", io.StringIO()) == "a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("a", "red", Terminal()) == "a"
