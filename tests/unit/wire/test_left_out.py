import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.left_out import LIST, LeftOut, Reason, Selection, for_javascript, left_out, note, parse_ignore_file

SECRETS = """
.env .env.local prod.env .envrc id_rsa id_ed25519.pub .netrc .npmrc .pypirc server.pem tls.KEY .ssh/config
.aws/credentials .config/gcloud/x .docker/config.json .kube/config token token.txt hf_token .huggingface_token
.git-credentials client_secret_1.json service_account.json credentials.json kaggle.json
cert.p12 terraform.tfvars .huggingface/token secrets.yaml secret.json .env.production aws_credentials secrets/a.txt
""".split()  # noqa: SIM905 - easier to read
OTHERS = """
.venv/lib/x.py .venv311/x venv-gpu/x lightning_logs/version_0/x events.out.tfevents a-4.1.dist-info/RECORD
venv/bin/python node_modules/x/y.js env/lib/site-packages/x.py wandb/run-1/config.yaml
runs/events.out.tfevents.1 mlruns/0/meta.yaml events.out.tfevents.9 .git/config .git .hg/x .svn/x .gitmodules
.cache/huggingface/download/x.metadata __pycache__/a.pyc b.pyc .ipynb_checkpoints/x
.DS_Store ._model.safetensors
__MACOSX/x Thumbs.db desktop.ini notes.txt~ .notes.swp .idea/x .vscode/settings.json a.safetensors.incomplete
x.lock m.safetensors.part m.gguf.crdownload m.gguf.aria2 training_args.bin optimizer.pt
scheduler.pt rng_state.pth
rng_state_0.pth scaler.pt checkpoint-10/optimizer.pt global_step1/mp_rank_00_model_states.pt .modelshareignore
""".split()  # noqa: SIM905 - easier to read
KEPT = """
config.json model.safetensors model.safetensors.index.json tokenizer.json tokens.txt special_tokens_map.json
tokenizer_config.json .gitattributes .gitignore README.md LICENSE merges.txt vocab.json token_type.json
1_Pooling/config.json scheduler/scheduler_config.json pytorch_model.bin model.pt keys.json environment.yml
chat_template.jinja imatrix.dat mmproj.gguf tokenizer.model added_tokens.json runs.txt wandb.md env.json
""".split()  # noqa: SIM905 - easier to read


@pytest.mark.parametrize("path", SECRETS)
def test_what_may_be_secret_is_left_out_anywhere_and_in_any_case(path: str) -> None:
    for each in (path, f"sub/{path}", path.upper()):
        found = left_out(each)
        assert found is not None
        assert found.reason is Reason.SECRET


@pytest.mark.parametrize("path", OTHERS)
def test_what_no_engine_reads_is_left_out(path: str) -> None:
    assert left_out(path) is not None
    assert left_out(f"sub/{path}") is not None


@pytest.mark.parametrize("path", KEPT)
def test_what_a_model_is_made_of_stays(path: str) -> None:
    assert left_out(path) is None
    assert left_out(f"sub/{path}") is None


def test_a_folder_is_named_once() -> None:
    paths = [".venv/bin/python", ".venv/lib/x.py", "a/wandb/x/y", ".env"]
    assert {found.path for path in paths if (found := left_out(path))} == {".venv/", "a/wandb/", ".env"}
    assert left_out(".venv", is_folder=True) == LeftOut(".venv/", Reason.INSTALLED)
    assert left_out("runs", is_folder=True) is not None
    assert left_out("runs") is None  # a file of that name


def test_patterns_go_before_the_list_and_later_ones_before_earlier_ones() -> None:
    chosen = Selection.of(ignored=["*.md", "!wandb/", "logs/"], exclude=["/big.bin"], include=["README.md", ".env"])
    assert chosen.left_out("NOTES.md") == LeftOut("NOTES.md", Reason.ASKED)
    assert chosen.left_out("README.md") is None
    assert chosen.left_out("wandb/x/y") is None
    assert chosen.left_out(".env") is None
    assert chosen.left_out(".env.local") is not None
    assert chosen.left_out("big.bin") is not None
    assert chosen.left_out("sub/big.bin") is None
    assert chosen.left_out("logs", is_folder=True) == LeftOut("logs/", Reason.ASKED)
    assert chosen.with_ignored(["*.safetensors", "!x.md"]).left_out("m.safetensors") is not None


def test_a_note_names_what_may_be_secret_first_and_is_bounded() -> None:
    found = [found for path in (*OTHERS, *SECRETS) if (found := left_out(path))]
    text = note(found)
    assert text is not None
    assert text.startswith("Left out: .aws/ (may hold a password or key), ")
    assert text.endswith(" more.")
    assert len(text) < 1000
    assert note([]) is None


def test_an_ignore_file_is_text_of_bounded_length() -> None:
    assert list(parse_ignore_file(b"\xef\xbb\xbf*.md\r\n# x\n")) == ["*.md", "# x"]
    with pytest.raises(ValueError, match="UTF-8"):
        parse_ignore_file(b"\xff")
    with pytest.raises(ValueError, match="longer"):
        parse_ignore_file(b"x" * 100_000)


@given(st.text(".abenv_-*\n", min_size=1, max_size=12).filter(lambda name: name not in {".", ".."}))
def test_the_expressions_for_scripts_say_the_same(name: str) -> None:
    made: Any = for_javascript()
    expected = left_out(name)
    fits = (each["reason"] for each in made["list"] if re.fullmatch(each["files"], name.lower(), re.DOTALL))
    assert next(fits, None) == (expected.reason if expected else None)


def test_every_name_of_the_list_is_in_small_letters() -> None:
    assert [name for names in LIST for name in (*names.folders, *names.files) if name != name.lower()] == []


def test_a_note_can_be_stored_and_shown_whatever_the_names_hold() -> None:
    names = ["\udce9.env", "a\x00b.log.tmp", "x\x1b[31m.tmp", "y" * 4000 + ".tmp"]
    told = note(filter(None, map(left_out, names)))
    assert told is not None
    assert told.isprintable()
    assert len(told.encode()) < 1000


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("a\n" * 501, "has 501 patterns; at most 500"),
        ("x" * 400, "a pattern of more than 300 characters"),
        ("**/a/**/b/**/c/**/d/**/e", "too many `\\*\\*`"),
    ],
)
def test_an_ignore_file_holds_so_many_patterns_and_no_endless_ones(text: str, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        parse_ignore_file(text.encode())
    assert len(parse_ignore_file(b"#\n" * 1000 + b"a\n" * 500)) == 1500
