import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.secret_scan import MAX_FOUND, ExposedSecret, find, is_scannable, warnings

A = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5kL7nP9rS1uV3xY"
"""Characters such as keys have."""
HIDDEN = A + A


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-----BEGIN PRIVATE KEY-----", "private key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", "private key"),
        ('{"private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}', "private key"),
        ("id = AKIAIOSFODNN7EXAMPLE", "AWS access key"),
        (f"aws_secret_access_key = {HIDDEN[:40]}", "AWS secret key"),
        (f'"AWS_SECRET_ACCESS_KEY": "{HIDDEN[:40]}"', "AWS secret key"),
        (f"AIza{HIDDEN[:35]}", "Google API key"),
        (f"token=hf_{HIDDEN[:34]}", "Hugging Face token"),
        (f"login('hf_{HIDDEN[:34]}')", "Hugging Face token"),
        (f"sk-{HIDDEN[:48]}", "OpenAI"),
        (f"sk-proj-{HIDDEN[:60]}", "OpenAI"),
        (f"sk-ant-api03-{HIDDEN[:60]}", "Anthropic"),
        (f"ghp_{HIDDEN[:36]}", "GitHub token"),
        (f"https://x:gho_{HIDDEN[:36]}@github.com", "GitHub token"),
        (f"github_pat_{HIDDEN[:22]}_{HIDDEN[:59]}", "GitHub token"),
        (f"glpat-{HIDDEN[:20]}", "GitLab token"),
        (f"npm_{HIDDEN[:36]}", "npm token"),
        (f"ms_tiny-lab_{HIDDEN[:43]}", "modelshare key"),
        (f"msp_{HIDDEN[:43]}", "modelshare key"),
        (f"msj_{HIDDEN[:43]}", "modelshare key"),
        (f"msk_{HIDDEN[:43]}", "modelshare key"),
        (f"https://hooks.slack.com/services/T0/B0/{HIDDEN[:24]}", "Slack webhook"),
        (f"SG.{HIDDEN[:22]}.{HIDDEN[:43]}", "SendGrid key"),
        (f"dapi{'0123456789abcdef' * 2}", "Databricks token"),
        (f"r8_{HIDDEN[:37]}", "inference service"),
        (f"gsk_{HIDDEN[:52]}", "inference service"),
        (f"123456789:AA{HIDDEN[:33]}", "Telegram"),
        (f"eyJ{HIDDEN[:20]}.eyJ{HIDDEN[:40]}.{HIDDEN[:43]}", "signed token"),
        (f"postgresql+asyncpg://me:{HIDDEN[:20]}@db.example/x", "password in a URL"),
        (f"MISTRAL_API_KEY={HIDDEN[:32]}", "key or password"),
        (f'"client_secret": "{HIDDEN[:36]}"', "key or password"),
        (f"password: {HIDDEN[:28]}", "key or password"),
        (f"WANDB_API_KEY={'0123456789abcdef' * 2}01234567", "Weights & Biases key"),
    ],
    ids=lambda text: text[:12],
)
def test_what_looks_like_a_key_is_found_and_not_shown(text: str, what: str) -> None:
    [found] = find("config.json", f"first\n  {text} \nlast".encode())
    assert (found.path, found.line) == ("config.json", 2)
    assert what in found.what
    assert HIDDEN[:20] not in "".join([str(found), *warnings([found])])
    assert "config.json, line 2, appears to contain" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-contrib-imbalanced and task-oriented-dialogue-systems-of-all-kinds",
        "hf_hub_download(repo_id) hf_transfer_is_enabled_by_default",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        f"sha256:{'0123456789abcdef' * 4}",
        "ms_marco_minilm_l6_v2 ms_coco",
        "AKIA is a prefix; export HF_TOKEN=hf_xxx",
        "sk-...",
        "https://user:password@proxy.example:3128 postgres://USER:YOUR_PASSWORD@host/db http://127.0.0.1:8000/v1",
        'api_key = os.environ["MISTRAL_API_KEY_OF_THE_PROJECT"]; password: str = Field(default_factory=ask_somebody)',
        '"auth_token": 12345, "password": 50256, "access_token": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"',
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find("README.md", text.encode()) == []


def test_what_windows_writes_is_read_too() -> None:
    assert find("a.txt", f"x\r\nghp_{HIDDEN[:36]}".encode("utf-16")) == [ExposedSecret("a.txt", 2, "a GitHub token")]


def test_small_text_files_are_looked_into() -> None:
    assert all(is_scannable(path, 10) for path in ("config.json", "a/README.md", "LICENSE", "x.PY", "train.ipynb"))
    assert all(is_scannable(path, 10) for path in (".env.production", "deploy.ps1", "notes.text", "a.yaml.example"))
    assert not any(is_scannable(path, 10) for path in ("model.safetensors", "m.gguf", "a.png", "tokenizer.model"))
    assert not is_scannable("tokenizer.json", 20 << 20)
    assert not is_scannable("empty.txt", 0)


def test_what_is_no_text_is_not_taken_for_keys() -> None:
    assert find("a.dat", b"\0\1" + f"ghp_{HIDDEN[:36]}".encode()) == []


def test_so_many_are_named_and_no_more() -> None:
    assert len(find("a.txt", f"ghp_{HIDDEN[:36]}\n".encode() * 1000)) == MAX_FOUND


@pytest.mark.parametrize(
    "piece",
    [
        *("-----BEGIN A ", "aws_secret_key ", "ms_a", "sk-proj-", "AKIA", "pypi-AgE", "a-", "SG.", "1", "password="),
        *("eyJ", "eyJaaaaaaaaaaaaaaa.", "https://", "https://a:", "api_key = 1"),
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    data = (piece * (1 << 20))[: 1 << 20].encode()
    began = time.process_time()
    find("a.txt", data)
    assert time.process_time() - began < 20


@given(st.binary(max_size=300))
def test_any_bytes_may_be_in_a_file(data: bytes) -> None:
    assert all(found.line > 0 for found in find("a.txt", data))


def test_many_keys_in_one_line_take_no_long_time_and_are_told_once() -> None:
    began = time.process_time()
    assert len(find("a.txt", f"ghp_{HIDDEN[:36]} ".encode() * 25_000)) == 1
    assert time.process_time() - began < 2
