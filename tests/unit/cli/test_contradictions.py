"""Options that contradict each other end a command before it asks the server; none is dropped in silence."""

import pytest

from modelshare.cli.app import main
from modelshare.cli.exit_codes import ExitCode

CONTRADICTIONS = (
    ("share", "m", "--public", "--to", "borg"),
    ("share", "m", "--public", "--link"),
    ("share", "m", "--link", "--to", "borg"),
    ("share", "m", "--public", "--max-uses", "3"),
    ("share", "m", "--to", "borg", "--expires-in", "2h"),
    ("recall", "m", "--in", "7d", "--on", "2099-01-31", "--reason", "x"),
    ("recall", "m", "--now", "--on", "2099-01-31T12:00", "--reason", "x"),
    ("recall", "m", "--in", "7d", "--now", "--reason", "x"),
    ("recall", "m", "--cancel", "--reason", "x"),
    ("recall", "m", "--cancel", "--on", "2099-01-31"),
    ("recall", "m", "--on", "2020-01-31", "--reason", "x", "--yes"),
    ("recall", "m", "--reason", "x"),
    ("recall", "m", "--close", "d", "--now"),
    ("recall", "m", "--close", "d", "--reason", "x"),
    ("webhooks", "update", "w", "--all-events", "--event", "model.ready"),
    ("endpoints", "update", "e", "--file", "a.gguf", "--own-file"),
    ("endpoints", "update", "e"),
    ("usage", "--by", "day,weekday"),
    ("usage", "--from", "2026-02-02", "--to", "2026-02-01"),
    ("agent", "--engine", "llamacpp", "--external-url", "http://127.0.0.1:1/v1"),
    ("agent", "--engine", "vllm", "--ray-settings", "/dev/null"),
)


@pytest.mark.parametrize("words", CONTRADICTIONS, ids=" ".join)
def test_what_contradicts_itself_is_wrong_usage(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELSHARE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("sys.argv", ["modelshare", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitCode.USAGE
    assert "--" in capsys.readouterr().err
