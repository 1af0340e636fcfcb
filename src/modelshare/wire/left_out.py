"""Files that a push leaves out by default: one list for folders, archives and the browser.

No engine reads these files, and many of them contain secrets. The user is always told what was left out.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from modelshare.wire.patterns import MAX_PATTERN, Pattern, decision, is_bounded, parse_all
from modelshare.wire.text import visible

IGNORE_FILE: Final = ".modelshareignore"
"""A file in the model's folder with patterns of further files to leave out, or, after a `!`, of files to push
anyway."""
MAX_IGNORE_FILE: Final = 64 << 10
"""Bytes."""
MAX_IGNORED: Final = 500
"""Maximum number of patterns in an ignore file."""
KEPT: Final = frozenset({".gitattributes", ".gitignore"})
"""Hidden files that belong to a model repository."""
_SHOWN: Final = 10
_SHOWN_OF_PATH: Final = 120


class Reason(StrEnum):
    """Why something is left out. The values are shown in messages."""

    SECRET = "may hold a password or key"  # noqa: S105 - not a password
    PICKLE = "can run code when it is loaded, and there are safer weights"
    TRAINING = "state of a training run, which no engine reads"
    LOG = "log of a training run"
    UNFINISHED = "unfinished download or temporary file"
    INSTALLED = "installed packages"
    CACHE = "cache"
    HIDDEN = "hidden"
    SYSTEM = "written by an operating system or editor"
    ASKED = "as you asked"


@dataclass(frozen=True, slots=True)
class _Names:
    reason: Reason
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


LIST: Final = (
    _Names(
        Reason.SECRET,
        folders=(
            *(".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".config", ".huggingface", ".kaggle", "secrets"),
        ),
        files=(
            *(
                ".env*",
                "*.env",
                ".envrc",
                "secret.json",
                "secret.y*ml",
                "secrets.*",
                "*credentials*",
                "client_secret*.json",
            ),
            *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "authorized_keys", "known_hosts"),
            *("*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.ovpn"),
            *("token", "token.txt", "hf_token*", "huggingface_token*", ".*token*", "stored_tokens"),
            *("api_key*", "apikey*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".htpasswd", ".git-credentials"),
            *(".npmrc", ".pypirc", ".dockercfg", ".boto", ".s3cfg", "rclone.conf", "kaggle.json", "*kubeconfig*"),
            *("service_account*.json", "service-account*.json", "*firebase-adminsdk*.json"),
            *("*.keytab", "*.gpg", "*.tfstate", "*.tfstate.backup", "*.tfvars"),
        ),
    ),
    _Names(
        Reason.TRAINING,
        files=(
            *("training_args*.bin", "optimizer*.pt", "optimizer*.pth", "optimizer*.bin", "scheduler*.pt"),
            *("scheduler*.bin", "scaler*.pt", "rng_state*.pth", "random_states_*.pkl", "custom_checkpoint_*.pkl"),
            *("*_optim_states.pt", "*_model_states.pt", "*.distcp"),
        ),
    ),
    _Names(
        Reason.LOG,
        folders=("wandb", "runs", "mlruns", "lightning_logs", "tb_logs", "tensorboard"),
        files=("events.out.tfevents*",),
    ),
    _Names(
        Reason.UNFINISHED,
        files=("*.incomplete", "*.lock", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.download", "*.aria2"),
    ),
    _Names(
        Reason.INSTALLED,
        folders=("venv*", ".venv*", "virtualenv", "node_modules", "site-packages", "*.dist-info", "*.egg-info"),
    ),
    _Names(Reason.CACHE, folders=("__pycache__", ".cache", ".ipynb_checkpoints"), files=("*.pyc", "*.pyo")),
    _Names(
        Reason.SYSTEM,
        folders=("__macosx", "$recycle.bin", "system volume information", "lost+found"),
        files=("._*", ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "*~", "*.swp", "*.swo"),
    ),
    _Names(Reason.HIDDEN, folders=(".*",), files=(".*",)),
)
"""The first match gives the reason. Names are lowercase; `*` matches any characters."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    path: str
    """A file, or a folder with a trailing `/`."""
    reason: Reason


def left_out(path: str, *, is_folder: bool = False) -> LeftOut | None:
    """What the list leaves out: `path` itself or its outermost listed parent folder; None if nothing matches."""
    names = path.split("/")
    for number, name in enumerate(names, 1):
        reason = _reason(name, is_folder=is_folder or number < len(names))
        if reason is not None:
            is_file = number == len(names) and not is_folder
            return LeftOut("/".join(names[:number]) + ("" if is_file else "/"), reason)
    return None


@dataclass(frozen=True, slots=True)
class Selection:
    """The default list plus the user's patterns. Later patterns override earlier ones, and all override the list."""

    patterns: tuple[Pattern, ...] = ()
    """A plain pattern leaves files out; one with `!` includes them again."""

    @classmethod
    def of(
        cls, *, ignored: Iterable[str] = (), exclude: Iterable[str] = (), include: Iterable[str] = ()
    ) -> "Selection":
        """Builds a selection from the lines of an ignore file and from patterns without `!`."""
        brought_back = tuple(replace(pattern, negated=True) for pattern in parse_all(include))
        return cls((*parse_all(ignored), *parse_all(exclude), *brought_back))

    @property
    def brings_back(self) -> bool:
        """Whether a pattern may include something from a folder that is left out."""
        return any(pattern.negated for pattern in self.patterns)

    def with_ignored(self, lines: Iterable[str]) -> "Selection":
        """Returns a copy with an ignore file's lines before its own patterns."""
        return Selection((*parse_all(lines), *self.patterns))

    def work(self, path: str) -> int:
        """Upper bound for the steps that `left_out` takes for this path."""
        return sum(pattern.work(path) for pattern in self.patterns)

    def left_out(self, path: str, *, is_folder: bool = False) -> LeftOut | None:
        """What is left out: `path` itself or a parent folder of it; None if the path is to be pushed."""
        decided = decision(self.patterns, path, is_folder=is_folder)
        if decided is False:
            return None
        listed = left_out(path, is_folder=is_folder)
        if listed is None and decided:
            return LeftOut(path + ("/" if is_folder else ""), Reason.ASKED)
        return listed


def note(found: Iterable[LeftOut]) -> str | None:
    """One sentence that lists what was left out, possible secrets first; None if nothing was."""
    counts = Counter(found)
    order = list(Reason)
    items = sorted(counts, key=lambda item: (order.index(item.reason), item.path))
    if not items:
        return None
    words = [f"{_shown(item.path)} ({item.reason})" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        words.append(f"{len(items) - _SHOWN:,} more")
    return f"Left out: {', '.join(words)}."


def _shown(path: str) -> str:
    return visible(path if len(path) <= _SHOWN_OF_PATH else f"{path[: _SHOWN_OF_PATH - 1]}…")


def ignore_file_lines(folder: Path) -> Sequence[str]:
    """The lines of the folder's ignore file, empty if it has none. Raises ValueError for an invalid file."""
    location = folder / IGNORE_FILE
    if not location.is_file():
        return ()
    with location.open("rb") as file:
        return parse_ignore_file(file.read(MAX_IGNORE_FILE + 1))


def parse_ignore_file(data: bytes) -> Sequence[str]:
    """The lines of an ignore file's content. Raises ValueError if it is invalid or too large."""
    if len(data) > MAX_IGNORE_FILE:
        raise ValueError(f"{IGNORE_FILE} is longer than {MAX_IGNORE_FILE:,} bytes")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{IGNORE_FILE} is not valid UTF-8") from None
    patterns = parse_all(lines)
    if len(patterns) > MAX_IGNORED:
        raise ValueError(f"{IGNORE_FILE} has {len(patterns):,} patterns; at most {MAX_IGNORED} are allowed")
    if not all(map(is_bounded, patterns)):
        raise ValueError(f"{IGNORE_FILE} has a pattern of more than {MAX_PATTERN} characters, or with too many `**`")
    return lines


def for_javascript() -> dict[str, object]:
    """The list for JavaScript: for each reason one regular expression for folder names and one for file names."""
    expressions = [
        {"reason": names.reason, "folders": _expression(names.folders), "files": _expression(names.files)}
        for names in LIST
    ]
    return {"list": expressions, "kept": sorted(KEPT)}


@functools.lru_cache(8192)
def _reason(name: str, *, is_folder: bool) -> Reason | None:
    """Why a file or folder with this name is left out; None if it is not."""
    name = unicodedata.normalize("NFC", name).lower()
    if name in {"", ".", ".."} or (name in KEPT and not is_folder):
        return None
    for names, folders, files in _compiled():
        if (folders if is_folder else files).fullmatch(name):
            return names.reason
    return None


@functools.cache
def _compiled() -> list[tuple[_Names, re.Pattern[str], re.Pattern[str]]]:
    return [
        (names, re.compile(_expression(names.folders), re.DOTALL), re.compile(_expression(names.files), re.DOTALL))
        for names in LIST
    ]


def _expression(globs: Sequence[str]) -> str:
    """A regular expression that matches whole names; `(?!)` matches none."""
    each = (".*".join(re.escape(piece) for piece in glob.split("*")) for glob in globs)
    return f"^(?:{'|'.join(each)})$" if globs else "(?!)"
