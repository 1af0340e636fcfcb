"""Keys and passwords in the text of small files, by the forms that their makers give them. Pure; names no secret.

The forms: gitleaks' rules (https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml) and GitHub's list of
supported patterns (https://docs.github.com/en/code-security/secret-scanning), those of the keys that people who make
models have at hand. Such a library of its own would bring hundreds of forms, most of which fit random text.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from modelshare.wire.text import visible

MAX_FILE: Final = 1 << 20
"""Bytes of a file that is looked into; larger ones hold vocabularies and data."""
MAX_FILES: Final = 500
MAX_FOUND: Final = 10
_HEAD: Final = 8 << 10
"""Bytes in which a file that is no text has a zero."""
_BINARY: Final = (
    *(".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx", ".h5", ".npy", ".npz"),
    *(".msgpack", ".tflite", ".pb", ".model", ".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".parquet", ".arrow"),
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".wav", ".mp3", ".flac", ".mp4"),
)
"""Extensions of files that hold no text. Of others, the content tells: keys lie in files of all names."""

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
    "slack_hook": (
        "a Slack webhook",
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_+-]{20,}",
    ),
    "sendgrid": ("a SendGrid key", r"(?<![\w.-])SG\.[\w-]{20,24}\.[\w-]{39,50}(?![\w-])"),
    "digitalocean": ("a DigitalOcean token", r"(?<![A-Za-z0-9])do[opr]_v1_[0-9a-f]{64}"),
    "databricks": ("a Databricks token", r"(?<![A-Za-z0-9])dapi[0-9a-f]{32}(?![0-9a-z])"),
    "inference": (
        "an API key of an inference service",
        r"(?<![\w-])(?:r8_[A-Za-z0-9]{37,40}|gsk_[A-Za-z0-9]{40,}|nvapi-[\w-]{60,}|xai-[A-Za-z0-9]{70,}"
        r"|pplx-[A-Za-z0-9]{40,}|tgp_v1_[\w-]{40,})(?![\w-])",
    ),
    "telegram": ("a Telegram bot's token", r"(?<![0-9])[0-9]{8,10}:AA[\w-]{33}(?![\w-])"),
    "jwt": ("a signed token (JWT)", r"(?<![\w-])eyJ[\w-]{15,2000}\.eyJ[\w-]{15,4000}\.[\w-]{20,}"),
    "url": (
        "a password in a URL",
        r"(?<![a-z])(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|https?|ftp)(?:\+[a-z0-9]{1,12})?://"
        r"[^\s:/@\"'<>{}$]{1,60}:(?!(?i:pass|your|secret|token|example|xxx)|gh[pousr]_|github_pat_|glpat-|hf_)[^\s:/@\"'<>{}$*]{8,100}@[A-Za-z0-9\[]",
    ),
    "named": (
        "a key or password",
        r"(?i:api[_-]?key|secret[_-]?key|client[_-]?secret|access[_-]?token|auth[_-]?token|passw(?:or)?d)"
        r"[\"']?[ \t]{0,9}[=:][ \t]{0,9}[\"']?(?=[A-Za-z_/+-]{0,60}[0-9])(?=[0-9_/+-]{0,60}[A-Za-z])"
        r"[A-Za-z0-9_/+-]{24,200}(?![A-Za-z0-9_/+-])",
    ),
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
    """Whether a file of that name and size may be text in which a key stands."""
    return 0 < size <= MAX_FILE and not path.lower().endswith(_BINARY)


def find(path: str, data: bytes) -> list[Exposed]:
    """The places in a file's text that look like keys: the first of each line, no more than MAX_FOUND."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    if encoding == "utf-8" and b"\0" in data[:_HEAD]:
        return []
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
