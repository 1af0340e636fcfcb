"""Determines from its output why an engine exited. Pure."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Printed by our own child processes and read here: llama.cpp may exit before its log says why.
PORT_TAKEN: Final = "Address already in use"
NOT_LOADED: Final = "The model does not load"
NOT_STARTED: Final = "cannot be started"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    reason: str
    """One sentence for the operator."""
    port_taken: bool = False
    """The engine may be started with another port."""
    out_of_memory: bool = False


# The first match counts: an engine that runs out of memory also logs that it could not load the model.
_SIGNATURES: Final = [
    (
        rf"{PORT_TAKEN}|errno 98\b|couldn't bind (?:http )?server socket|failed to bind",
        "Another program took the port that was assigned to the engine.",
    ),
    (
        r"out of memory|cannot allocate memory|memoryerror|bad_alloc|failed to allocate|unable to allocate|"
        r"no available memory for the cache blocks|not enough memory",
        "The model does not fit into the memory of this machine; use a smaller or more quantized model, "
        "a shorter context, or a larger machine.",
    ),
    (
        r"modulenotfounderror: no module named '([\w.]+)'|importerror: .*no module named '?([\w.]+)",
        "The engine lacks the Python package {0}; install it on this machine.",
    ),
    (
        r"missing dependencies for serving",
        "The engine is not fully installed; run pip install 'transformers[serving]'.",
    ),
    (rf"^(\S+) {NOT_STARTED}: (.+)$", "{0} cannot be started: {1}; check the engine's path."),
    (
        r"unknown model architecture: '?([\w.-]+)|model architectures \['?([\w.-]+)'?\] (?:are|is) not supported|"
        r"unrecognized model|does not recognize this architecture",
        "This version of the engine does not support the model's architecture {0}; update the engine or choose "
        "another.",
    ),
    (
        r"unknown pre-tokenizer type: '?([\w.-]+)",
        "This version of the engine does not support the model's tokenizer {0}; update the engine or choose another.",
    ),
    (
        r"key not found in model: ([\w.-]+)",
        "The model's GGUF file does not state its {0}, which llama.cpp needs; export it with a current tool.",
    ),
    (
        r"safetensorerror|metadataincompletebuffer|headertoolarge|invalid magic|not within the file bounds|"
        r"corrupted or incomplete|failed to read|tensor '.*' not found|missing tensor|does not appear to have a file|"
        r"failed to load model|error loading model",
        "The engine cannot read the model's files; they may be damaged or in a different format.",
    ),
    (  # last, since it says less than llama.cpp's log
        NOT_LOADED,
        "The engine cannot read the model's files; they may be damaged, in a different format, or too large for this "
        "machine.",
    ),
]
_PATTERNS: Final = [(re.compile(pattern, re.IGNORECASE | re.MULTILINE), text) for pattern, text in _SIGNATURES]
_PORT: Final = 0
_MEMORY: Final = 1
_LONGEST: Final = 300
_PYTHON: Final = re.compile(
    r"\b(?:\w+\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Warning)\b|\bTraceback\b|\bFile \"|^\s*[\^~]+\s*$|"
    r"<(?:class|function|module|bound method)\b|\bobject at 0x|\bNoneType\b|^\s*(?:raise|return|self\.)"
)
"""Output meant for programmers."""


def diagnose(log: Sequence[str], returncode: int | None) -> Diagnosis:
    """`returncode` as in `subprocess`: negative for a signal, None if the engine is still running."""
    text = "\n".join(log)
    for index, (pattern, sentence) in enumerate(_PATTERNS):
        if found := pattern.search(text):
            named = [group for group in found.groups() if group]
            return Diagnosis(_filled(sentence, named), port_taken=index == _PORT, out_of_memory=index == _MEMORY)
    if returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        return Diagnosis("The system killed the engine, most likely because memory ran out.", out_of_memory=True)
    last = next((line.strip() for line in reversed(log) if line.strip()), "")
    said = _last_words(last)
    if returncode is None:
        return Diagnosis(f"The engine is not responding.{said}")
    return Diagnosis(f"The engine exited with {_how(returncode)}.{said}")


def humanize_error(said: str) -> str | None:
    """A program's message, truncated; None if it is meant for programmers."""
    return None if _PYTHON.search(said) else said[:_LONGEST]


def _last_words(line: str) -> str:
    if not line:
        return ""
    said = humanize_error(line)
    return " See the agent's log for details." if said is None else f" Its last output: {said}"


def _filled(sentence: str, named: Sequence[str]) -> str:
    if not named:  # the pattern captured nothing: remove the placeholder
        return re.sub(r" ?\{\d\}", "", sentence)
    return sentence.format(*named)


def _how(returncode: int) -> str:
    number = -returncode if returncode < 0 else returncode - 128
    if number in {one.value for one in signal.Signals}:
        return f"signal {signal.Signals(number).name}"
    return f"exit code {returncode}"
