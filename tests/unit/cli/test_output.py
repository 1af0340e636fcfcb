import json

import pytest

from modelshare.cli.output import print_json, print_record, print_table
from modelshare.wire.models import FacetCount


def test_a_table_that_is_no_terminals_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "SIZE"), [("a" * 200, "1 B"), ("b", "")], empty="None.")
    out = capsys.readouterr().out.splitlines()
    assert out == ["NAME" + " " * 198 + "SIZE", "a" * 200 + "  1 B", "b"]


def test_a_table_without_rows_leaves_stdout_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [], empty="No models yet.")
    assert capsys.readouterr() == ("", "No models yet.\n")


def test_what_others_named_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [("\x1b[2J\nfake  row",)], empty="")
    assert capsys.readouterr().out == "NAME\n\\u001b[2J fake  row\n"
    print_record([("description", "one\x1b]0;title\x07\ntwo")])
    assert capsys.readouterr().out == "description  one\\u001b]0;title\\u0007 two\n"


def test_a_record_leaves_out_what_has_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_record([("id", "1"), ("reason", None), ("licence", ""), ("version", "1.0.0")])
    assert capsys.readouterr().out == "id       1\nversion  1.0.0\n"


def test_json_steers_no_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    value = "\x1b[2J\x9b\u202egpj.exe\ud800\u2028 \u00fc"
    print_json([FacetCount.model_construct(value=value, count=1)])
    printed = capsys.readouterr().out
    assert json.loads(printed)[0]["value"] == value
    assert printed.replace("\n", "").isprintable()


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([FacetCount(value="ä", count=1)])
    assert json.loads(capsys.readouterr().out) == [{"value": "ä", "count": 1}]
