"""Keys and passwords in the text of small files, by the forms that their makers give them. Pure; names no secret.

The forms: gitleaks' rules (https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml) and GitHub's list of
supported patterns (https://docs.github.com/en/code-security/secret-scanning), those of the keys that people who make
models have at hand. Such a library of its own would bring hundreds of forms, most of which fit random text.
"""

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from modelshare.wire.text import visible

MAX_FILE: Final = 1 << 20
"""Bytes of a file that is looked into; larger ones hold vocabularies and data."""
MAX_FILES: Final = 500
MAX_FOUND: Final = 10
_TEXT: Final = frozenset(
    {
        *("", ".cfg", ".conf", ".html", ".ini", ".ipynb", ".jinja", ".js", ".json", ".jsonl", ".md", ".properties"),
        *(".py", ".rst", ".sh", ".toml", ".ts", ".txt", ".xml", ".yaml", ".yml", ".modelfile", ".log", ".csv"),
    }
)

_FORMS: Final = {
    "private_key": ("a private key", r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    "putty": ("a private key", r"PuTTY-User-Key-File-[0-9]:"),
    "aws_id": ("an AWS access key", r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "aws": (
        "an AWS secret key",
        r"(?i:aws_?secret_?(?:access_?)?key)[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?[A-Za-z0-9/+=]{40}(?![A-Za-z0-9/+=])",
    ),
    "google": ("a Google API key", r"(?<![\w-])AIza[\w-]{35}(?![\w-])"),
    "google_oauth": ("a Google OAuth secret", r"(?<![\w-])GOCSPX-[\w-]{28}"),
    "hugging_face": ("a Hugging Face token", r"(?<![A-Za-z0-9])(?:hf_|api_org_)[A-Za-z0-9]{30,}"),
    "openai": (
        "an API key of OpenAI's or Anthropic's form",
        r"(?<![\w-])sk-(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    ),
    "github": ("a GitHub token", r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"),
    "gitlab": ("a GitLab token", r"(?<![\w-])glpat-[\w-]{20,}"),
    "slack": ("a Slack token", r"(?<![\w-])xox[abeoprs]-[\w-]{10,}"),
    "stripe": ("a Stripe key", r"(?<![A-Za-z0-9])[sr]k_live_[A-Za-z0-9]{20,}"),
    "npm": ("an npm token", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}"),
    "pypi": ("a PyPI token", r"(?<![\w-])pypi-AgE[\w-]{50,}"),
    "azure": ("an Azure storage key", r"AccountKey=[A-Za-z0-9+/=]{80,}"),
    "wandb": ("a Weights & Biases key", r"WANDB_API_KEY[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?[0-9a-f]{40}"),
    "ours": (
        "a modelshare key",
        r"(?<![A-Za-z0-9])(?:ms_[a-z0-9](?:-?[a-z0-9]){0,62}_|ms[a-z]_)[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",
    ),
}
_ANY: Final = re.compile("|".join(f"(?P<{name}>{form})" for name, (_, form) in _FORMS.items()))


@dataclass(frozen=True, slots=True)
class Exposed:
    """Something that looks like a key. Not the key."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{visible(self.path)}, line {self.line}, holds what looks like {self.what}."


def worth_reading(path: str, size: int) -> bool:
    """Whether a file of that name and size is text in which a key may stand."""
    return 0 < size <= MAX_FILE and posixpath.splitext(path)[1].lower() in _TEXT


def find(path: str, data: bytes) -> list[Exposed]:
    """The places in a file's text that look like keys: the first of each line, no more than MAX_FOUND."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    text = data[:MAX_FILE].decode(encoding, errors="replace")
    found: list[Exposed] = []
    for place in _ANY.finditer(text):
        line = text.count("\n", 0, place.start()) + 1
        if not found or found[-1].line != line:
            found.append(Exposed(path, line, _FORMS[place.lastgroup or ""][0]))
        if len(found) == MAX_FOUND:
            break
    return found


def warnings(found: Collection[Exposed]) -> list[str]:
    """What to tell of them before a model is shared."""
    return [
        f"{each} Whoever runs the model gets the file: revoke the key where it was made, and push without it."
        for each in found
    ]
