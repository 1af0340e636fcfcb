"""A stand-in for `vllm serve` and `sglang serve`: has their options and rejects others, and serves OpenAI's routes.

`STAND_IN_FAILURE` makes it fail in the ways of the real ones.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAILURE = os.environ.get("STAND_IN_FAILURE", "")
FAILS_WHEN = Path(os.environ.get("STAND_IN_FAILURE_FROM", "never"))
"""Failures of a running engine start when this file exists."""


def vllm_options(arguments: list[str]) -> tuple[argparse.Namespace, str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--shutdown-timeout", type=int, required=True)
    parser.add_argument("--disable-fastapi-docs", action="store_true")
    parser.add_argument("--runner", choices=["pooling"])
    parser.add_argument("--max-model-len", type=int)
    common(parser)
    return parser.parse_args(arguments), os.environ["VLLM_API_KEY"]


def sglang_options(arguments: list[str]) -> tuple[argparse.Namespace, str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", dest="model", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--enable-metrics", action="store_true", required=True)
    parser.add_argument("--is-embedding", action="store_true")
    parser.add_argument("--disable-radix-cache", action="store_true")
    common(parser)
    options = parser.parse_args(arguments)
    return options, options.api_key


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", choices=["127.0.0.1"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)


class Handler(BaseHTTPRequestHandler):
    name = key = prefix = ""
    gauges: tuple[str, str] = ("", "")
    work = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            if FAILURE == "hangs" and FAILS_WHEN.exists():
                time.sleep(3600)
            self.reply(200, "")
        elif self.path == "/metrics":
            running, waiting = (0, 0) if FAILURE == "falls silent" else (2, 1)
            text = f'{self.gauges[0]}{{engine="0"}} {running}\n{self.gauges[1]}{{engine="0"}} {waiting}\n'
            if self.gauges[0].startswith("vllm"):
                Handler.work += FAILURE == "is slow"
                text += f'vllm:prompt_tokens_total{{engine="0"}} 9.0\nvllm:generation_tokens_total {self.work}\n'
            self.reply(200, text)
        else:
            self.reply(404, "")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self.reply(401, "")
        elif FAILURE == "out of memory when asked":
            sys.stderr.write("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
            self.reply(500, "Internal Server Error")
        elif FAILURE == "no answer" or (FAILURE == "falls silent" and FAILS_WHEN.exists()):
            self.reply(500, json.dumps({"error": {"message": "CUDA error"}}))
        elif FAILURE == "takes and gives nothing" and FAILS_WHEN.exists():
            time.sleep(3600)
        elif body["model"] != self.name:
            self.reply(404, json.dumps({"error": {"message": f"no model {body['model']}"}}))
        elif self.path == "/v1/embeddings":
            self.reply(200, json.dumps({"model": self.name, "data": [{"embedding": [1.0]}]}))
        elif body.get("stream"):
            self.stream(body)
        else:
            message = {"role": "assistant", "content": "Hello.", "refusal": body.get("cache_salt")}
            usage = {"prompt_tokens": 1, "completion_tokens": 2}
            answer = {"model": self.name, "choices": [{"message": message}], "usage": usage}
            self.reply(200, json.dumps(answer))

    def stream(self, body: dict[str, object]) -> None:
        chunks: list[dict[str, object]] = [{"choices": [{"delta": {"content": text}}]} for text in ("Hel", "lo.")]
        if body.get("stream_options"):
            chunks.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
        events = [json.dumps({"model": self.name, **chunk}) for chunk in chunks]
        self.reply(200, "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]))

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    command, *arguments = sys.argv[1:]
    assert command == "serve"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    is_vllm = Path(sys.argv[0]).name == "vllm"
    options, Handler.key = (vllm_options if is_vllm else sglang_options)(arguments)
    assert (Path(options.model) / "config.json").is_file()
    Handler.name = options.served_model_name
    Handler.gauges = (
        ("vllm:num_requests_running", "vllm:num_requests_waiting")
        if is_vllm
        else ("sglang:num_running_reqs", "sglang:num_queue_reqs")
    )
    if FAILURE == "out of memory":
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    # Like vLLM: the part that holds the GPU is another process, which survives the first.
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 3600"])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
