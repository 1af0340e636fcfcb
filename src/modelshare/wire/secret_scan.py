"""Finds keys and passwords in small text files by their well-known formats. Pure; never returns the secret itself.

The formats are those of gitleaks (https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml) and of
GitHub's supported patterns (https://docs.github.com/en/code-security/secret-scanning), limited to keys that people who
make models use. A library would bring hundreds more, most of which also match random text.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from modelshare.wire.text import visible

MAX_FILE: Final = 1 << 20
"""Maximum size in bytes of a file that is scanned; larger ones contain vocabularies and data."""
MAX_FILES: Final = 500
MAX_FOUND: Final = 10
_HEAD: Final = 8 << 10
"""A file with a zero byte in its first `_HEAD` bytes is binary."""
_BINARY: Final = (
    *(".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx", ".h5", ".npy", ".npz"),
    *(".msgpack", ".tflite", ".pb", ".model", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".parquet", ".arrow"),
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".wav", ".mp3", ".flac", ".mp4"),
)
"""Extensions of binary files. All others are judged by content, since keys are found in files of any name."""


@dataclass(frozen=True, slots=True)
class _Form:
    what: str
    marks: tuple[str, ...]
    """Lowercase substrings: a text that contains none of them cannot match `pattern`. A fast pre-filter."""
    pattern: re.Pattern[str]


def _form(what: str, marks: str, pattern: str) -> _Form:
    return _Form(what, tuple(marks.split()), re.compile(pattern))


_FORMS: Final = (  # if several match a line, the first one names the finding
    _form("a private key", "-----begin", r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    _form("a private key", "putty-user-key-file-", r"PuTTY-User-Key-File-[0-9]:"),
    _form(
        "an AWS access key",
        "akia asia abia acca",
        r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    ),
    _form(
        "an AWS secret key",
        "aws",
        r"(?i:aws_?secret_?(?:access_?)?key)[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?[A-Za-z0-9/+=]{40}(?![A-Za-z0-9/+=])",
    ),
    _form("a Google API key", "aiza", r"(?<![\w-])AIza[\w-]{35}(?![\w-])"),
    _form("a Google OAuth secret", "gocspx-", r"(?<![\w-])GOCSPX-[\w-]{28}"),
    _form("a Hugging Face token", "hf_ api_org_", r"(?<![A-Za-z0-9])(?:hf_|api_org_)[A-Za-z0-9]{30,}"),
    _form(
        "an OpenAI or Anthropic API key",
        "sk-",
        r"(?<![\w-])sk-(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    ),
    _form(
        "a GitHub token",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    ),
    _form("a GitLab token", "glpat-", r"(?<![\w-])glpat-[\w-]{20,}"),
    _form("a Slack token", "xox", r"(?<![\w-])xox[abeoprs]-[\w-]{10,}"),
    _form("a Stripe key", "k_live_", r"(?<![A-Za-z0-9])[sr]k_live_[A-Za-z0-9]{20,}"),
    _form("an npm token", "npm_", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}"),
    _form("a PyPI token", "pypi-age", r"(?<![\w-])pypi-AgE[\w-]{50,}"),
    _form(
        "a Slack webhook",
        "hooks.slack.com",
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_+-]{20,}",
    ),
    _form("a SendGrid key", "sg.", r"(?<![\w.-])SG\.[\w-]{20,24}\.[\w-]{39,50}(?![\w-])"),
    _form("a DigitalOcean token", "_v1_", r"(?<![A-Za-z0-9])do[opr]_v1_[0-9a-f]{64}"),
    _form("a Databricks token", "dapi", r"(?<![A-Za-z0-9])dapi[0-9a-f]{32}(?![0-9a-z])"),
    _form(
        "an API key of an inference service",
        "r8_ gsk_ nvapi- xai- pplx- tgp_v1_",
        r"(?<![\w-])(?:r8_[A-Za-z0-9]{37,40}|gsk_[A-Za-z0-9]{40,}|nvapi-[\w-]{60,}|xai-[A-Za-z0-9]{70,}"
        r"|pplx-[A-Za-z0-9]{40,}|tgp_v1_[\w-]{40,})(?![\w-])",
    ),
    _form("a Telegram bot token", ":aa", r"(?<![0-9])[0-9]{8,10}:AA[\w-]{33}(?![\w-])"),
    _form("a signed token (JWT)", "eyj", r"(?<![\w-])eyJ[\w-]{15,2000}\.eyJ[\w-]{15,4000}\.[\w-]{20,}"),
    _form("an Azure storage key", "accountkey=", r"AccountKey=[A-Za-z0-9+/=]{80,}"),
    _form(
        "a Weights & Biases key",
        "wandb_api_key",
        r"WANDB_API_KEY[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?[0-9a-f]{40}",
    ),
    _form(
        "a modelshare key",
        "ms",
        r"(?<![A-Za-z0-9])(?:ms_[a-z0-9](?:-?[a-z0-9]){0,62}_|ms[a-z]_)[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",
    ),
    _form(
        "a password in a URL",
        "://",
        r"(?<![a-z])(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|https?|ftp)(?:\+[a-z0-9]{1,12})?"
        r"://[^\s:/@\"'<>{}$]{1,60}:(?!(?i:pass|your|secret|token|example|xxx)|gh[pousr]_|github_pat_|glpat-|hf_)"
        r"[^\s:/@\"'<>{}$*]{8,100}@[A-Za-z0-9\[]",
    ),
    _form(
        "a key or password",
        "key token secret passw",
        r"(?i:api[_-]?key|secret[_-]?key|client[_-]?secret|access[_-]?token|auth[_-]?token|passw(?:or)?d)"
        r"[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?(?=[A-Za-z_/+-]{0,60}[0-9])(?=[0-9_/+-]{0,60}[A-Za-z])"
        r"[A-Za-z0-9_/+-]{24,200}(?![A-Za-z0-9_/+-])",
    ),
)


@dataclass(frozen=True, slots=True)
class Exposed:
    """A line that appears to contain a key. Does not contain the key itself."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{visible(self.path)}, line {self.line}, appears to contain {self.what}."


def worth_reading(path: str, size: int) -> bool:
    """Whether a file of that name and size may be a text file that contains a key."""
    return 0 < size <= MAX_FILE and not path.lower().endswith(_BINARY)


def find(path: str, data: bytes) -> list[Exposed]:
    """Finds lines that appear to contain a key; at most MAX_FOUND."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    if encoding == "utf-8" and b"\0" in data[:_HEAD]:
        return []
    text = data[:MAX_FILE].decode(encoding, errors="replace")
    small = text.lower()
    kinds: dict[int, str] = {}
    for form in _FORMS:
        if any(mark in small for mark in form.marks):
            for line in _lines(form.pattern, text):
                kinds.setdefault(line, form.what)
    return [Exposed(path, line, what) for line, what in sorted(kinds.items())[:MAX_FOUND]]


def _lines(pattern: re.Pattern[str], text: str) -> set[int]:
    """Numbers of the matching lines, at most MAX_FOUND. No pattern matches across lines."""
    found = set[int]()
    line, at = 1, 0
    for place in pattern.finditer(text):
        line, at = line + text.count("\n", at, place.start()), place.start()
        found.add(line)
        if len(found) == MAX_FOUND:
            break
    return found


def warnings(found: Collection[Exposed]) -> list[str]:
    """Warnings about the findings, to be shown before a model is shared."""
    return [
        f"{each} Anyone who runs the model gets this file. Revoke the key where it was issued, and push without it."
        for each in found
    ]
