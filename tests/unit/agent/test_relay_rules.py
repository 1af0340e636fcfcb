import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.relay_rules import (
    BadRequest,
    RelayPolicy,
    StreamRewriter,
    Usage,
    prepare_request,
    rewrite_answer,
    rewrite_error,
)

FAITHFUL = RelayPolicy(public_name="acme/tiny", request_model="acme/tiny")
TRANSFORMERS = RelayPolicy(
    public_name="acme/tiny",
    request_model=None,
    names_itself=False,
    ends_streams=False,
    usage_on_request=False,
    private=("/data/m@main", "/data/m"),
)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, model: str = "acme/tiny") -> bytes:
    return event(model=model, choices=[{"delta": {"content": text}}])


def through(policy: RelayPolicy, *chunks: bytes, hide_usage: bool = False) -> tuple[bytes, Usage]:
    rewriter = StreamRewriter(policy, hide_usage=hide_usage)
    out = b"".join([rewriter.feed(chunk) for chunk in chunks]) + rewriter.finish()
    return out, rewriter.usage


class TestRequest:
    def test_names_the_model_as_the_engine_wants_and_keeps_the_rest(self) -> None:
        body = b'{"model":"gpt-4","temperature":0.10000,"messages":[{"role":"user","content":"\xc3\xa9"}]}'

        prepared = prepare_request(body, FAITHFUL)

        assert prepared.body == body.replace(b"gpt-4", b"acme/tiny")
        assert not prepared.stream
        assert not prepared.hide_usage

    def test_a_missing_model_is_added(self) -> None:
        assert json.loads(prepare_request(b"{}", FAITHFUL).body) == {"model": "acme/tiny"}

    def test_the_model_is_left_out_where_the_engine_refuses_names(self) -> None:
        assert json.loads(prepare_request(b'{"model":"x","n":1}', TRANSFORMERS).body) == {"n": 1}

    @pytest.mark.parametrize("options", ["", ',"stream_options":null', ',"stream_options":{"include_usage":false}'])
    def test_a_stream_is_asked_for_its_usage_on_our_own_account(self, options: str) -> None:
        prepared = prepare_request(b'{"stream":true%s}' % options.encode(), FAITHFUL)

        assert prepared.stream
        assert prepared.hide_usage
        assert json.loads(prepared.body)["stream_options"] == {"include_usage": True}

    def test_a_client_that_asked_itself_gets_to_see_it(self) -> None:
        prepared = prepare_request(b'{"stream": true, "stream_options": {"include_usage": true, "x": 1}}', FAITHFUL)

        assert not prepared.hide_usage
        assert json.loads(prepared.body)["stream_options"] == {"include_usage": True, "x": 1}

    def test_an_engine_that_always_tells_its_usage_is_not_asked(self) -> None:
        prepared = prepare_request(b'{"stream":true}', TRANSFORMERS)

        assert json.loads(prepared.body) == {"stream": True}
        assert not prepared.hide_usage

    @pytest.mark.parametrize("body", [b"", b"[1]", b'{"a":', b'"text"', b"nonsense"])
    def test_what_is_no_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest, match="must be a JSON object"):
            prepare_request(body, FAITHFUL)

    @pytest.mark.parametrize(
        "body", [b'{"messages":' + b"[" * 100_000, b'{"stream":true,"stream_options":' + b"[" * 100_000]
    )
    def test_what_is_nested_without_end_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest, match="nested too deeply"):
            prepare_request(body, FAITHFUL)


class TestAnswer:
    def test_bytes_pass_where_the_engine_knows_its_public_name(self) -> None:
        body = b'{ "model":"acme/tiny", "usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12} }'

        assert rewrite_answer(body, FAITHFUL) == (body, Usage(5, 7))

    def test_the_engines_own_name_is_replaced(self) -> None:
        body, usage = rewrite_answer(b'{"model":"/data/m@main","usage":{"prompt_tokens":2}}', TRANSFORMERS)

        assert json.loads(body) == {"model": "acme/tiny", "usage": {"prompt_tokens": 2}}
        assert usage == Usage(2, 0)

    @pytest.mark.parametrize("body", [b"", b"{", b'{"usage":null}', b'{"usage":{"prompt_tokens":"x"}}', b"[]"])
    def test_what_tells_no_usage_counts_nothing_and_passes(self, body: bytes) -> None:
        assert rewrite_answer(body, FAITHFUL) == (body, Usage())

    def test_after_a_rename_the_engines_former_name_is_replaced(self) -> None:
        policy = FAITHFUL.under("acme/renamed")

        assert json.loads(prepare_request(b"{}", policy).body)["model"] == "acme/tiny"
        assert rewrite_answer(b'{"model":"acme/tiny"}', policy)[0] == b'{"model":"acme/renamed"}'
        assert FAITHFUL.under("acme/tiny") is FAITHFUL


class TestError:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"error":{"code":400,"message":"Bad /data/m@main","type":"x"}}',
            b'{"detail":"Bad /data/m@main"}',
            b'{"detail":[{"loc":["body"],"msg":"Bad /data/m@main"}]}',
            b'{"error":"Bad /data/m"}',
            b'{"message":"Bad /data/m"}',
        ],
    )
    def test_a_refusal_keeps_its_sentence_and_loses_this_machines_paths(self, body: bytes) -> None:
        error = json.loads(rewrite_error(400, body, TRANSFORMERS))["error"]

        assert error == {"message": "Bad acme/tiny", "type": "invalid_request_error", "code": None, "param": None}

    @pytest.mark.parametrize(("status", "body"), [(500, b'{"detail":"Traceback /x"}'), (400, b"<html>"), (422, b"{}")])
    def test_details_of_a_failure_stay_here(self, status: int, body: bytes) -> None:
        error = json.loads(rewrite_error(status, body, TRANSFORMERS))["error"]

        assert error["message"].startswith("The engine failed on this request")


class TestStream:
    def test_plain_chunks_pass_as_they_are(self) -> None:
        chunk = delta("Hi") + delta("you")
        rewriter = StreamRewriter(FAITHFUL, hide_usage=True)

        assert rewriter.feed(chunk) is chunk

    def test_the_usage_chunk_that_we_asked_for_is_hidden_and_counted(self) -> None:
        usage = event(model="acme/tiny", choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
        out, counted = through(FAITHFUL, delta("Hi"), usage, b"data: [DONE]\n\n", hide_usage=True)

        assert out == delta("Hi") + b"data: [DONE]\n\n"
        assert counted == Usage(3, 2)

    def test_the_usage_chunk_that_the_client_asked_for_stays(self) -> None:
        usage = event(model="acme/tiny", choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
        out, counted = through(FAITHFUL, usage, b"data: [DONE]\n\n")

        assert out == usage + b"data: [DONE]\n\n"
        assert counted == Usage(3, 2)

    def test_usage_beside_the_last_choice_is_counted_and_not_hidden(self) -> None:
        last = event(model="acme/tiny", choices=[{"finish_reason": "stop"}], usage={"completion_tokens": 9})
        out, counted = through(FAITHFUL, last, hide_usage=True)

        assert out.startswith(last)
        assert counted == Usage(0, 9)

    def test_a_null_usage_does_not_erase_the_count(self) -> None:
        told = event(choices=[{}], usage={"completion_tokens": 9})
        assert through(FAITHFUL, told, event(choices=[], usage=None), hide_usage=True)[1] == Usage(0, 9)

    def test_the_end_is_added_once_and_only_when_missing(self) -> None:
        assert through(TRANSFORMERS, delta("Hi"))[0] == delta("Hi") + b"data: [DONE]\n\n"
        assert through(FAITHFUL, delta("Hi"), b"data: [DONE]\n\n")[0].count(b"[DONE]") == 1
        assert through(FAITHFUL, delta("Hi"), b"data: [DONE]")[0].count(b"[DONE]") == 1

    def test_the_word_done_in_a_text_is_no_end(self) -> None:
        assert through(FAITHFUL, delta("[DONE]"))[0] == delta("[DONE]") + b"data: [DONE]\n\n"

    def test_the_engines_name_is_replaced_in_every_chunk(self) -> None:
        out, _ = through(TRANSFORMERS, delta("é", "/data/m@main"), delta("b", "/data/m@main"))

        assert b"/data" not in out
        assert out.count(b'"model":"acme/tiny"') == 2
        assert "é".encode() in out

    def test_an_error_in_the_stream_gets_the_usual_shape(self) -> None:
        out, _ = through(TRANSFORMERS, event(error="lost /data/m"))

        error = json.loads(out.split(b"\n\n")[0].removeprefix(b"data: "))["error"]
        assert error["message"] == "lost acme/tiny"

    def test_comments_and_unreadable_events_pass(self) -> None:
        assert through(TRANSFORMERS, b": ping\n\n", b"data: {oops\n\n")[0].startswith(b": ping\n\ndata: {oops\n\n")

    @given(st.lists(st.integers(0, 2000), max_size=20), st.booleans())
    def test_how_the_stream_was_cut_does_not_matter(self, places: list[int], names_itself: bool) -> None:
        policy = replace(FAITHFUL, names_itself=names_itself)
        usage = event(model="x", choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
        stream = delta("é€😀", "x") + b": ping\r\n\r\n" + delta('say "usage"', "x") + usage + b"data: [DONE]\n\n"
        edges = [0, *sorted(place % len(stream) for place in places), len(stream)]
        chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]

        out, counted = through(policy, *chunks, hide_usage=True)
        wanted, told = through(policy, stream, hide_usage=True)
        assert re.sub(rb"\r\n?", b"\n", out) == re.sub(rb"\r\n?", b"\n", wanted)
        assert counted == told == Usage(3, 2)
