"""What an engine gets of a request, and a client of an answer."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines import parameters
from modelshare.agent.engines.answers import StreamReader, read_answer, write_answer, write_pieces
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.parts import StreamMerger, Subrequest
from modelshare.agent.engines.refusals import EngineRefusalError, refusal_for_status, refusal_in_body
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy, prepare_request
from modelshare.agent.engines.sse import data_event
from modelshare.wire.inference import BadInferenceRequestError

CHAT = "chat/completions"
FAITHFUL = RelayPolicy(public_name="acme/tiny", request_model="acme/tiny", supports=parameters.LLAMACPP)
TRANSFORMERS = RelayPolicy(
    public_name="acme/tiny", request_model=None, supports=parameters.TRANSFORMERS, usage_on_request=False
)
MESSAGES = b'"messages":[{"role":"user","content":"\xc3\xa9"}]'

VALUES = st.recursive(
    st.none() | st.text() | st.integers() | st.floats(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5
)


def prepared(policy: RelayPolicy = FAITHFUL, route: str = CHAT, **fields: Any) -> PreparedRequest:
    needed = {"messages": [{"role": "user", "content": "Hi"}]} if route == CHAT else {}
    return prepare_request(route, json.dumps(needed | fields).encode(), policy)


def sent(policy: RelayPolicy = FAITHFUL, route: str = CHAT, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(prepared(policy, route, **fields).body({}))
    return found


def event(**fields: Any) -> bytes:
    return data_event(json.dumps(fields, ensure_ascii=False).encode())


def delta(text: str, model: str = "m") -> bytes:
    return event(model=model, choices=[{"delta": {"content": text}}])


def through(request: PreparedRequest, *chunks: bytes) -> tuple[bytes, TokenUsage]:
    tally = request.tally()
    reader = StreamReader(request, tally)
    merger, part = StreamMerger(), Subrequest(request)
    pieces = [merger.pieces(part, each) for each in (*map(reader.feed, chunks), reader.finish())]
    if reader.failure is not None:
        raise reader.failure
    return b"".join(map(write_pieces, pieces)) + merger.end(request, tally.for_client()), tally.usage


class TestRequest:
    def test_names_the_model_as_the_engine_wants_and_keeps_the_rest(self) -> None:
        body = b'{"model":"gpt-4","temperature":0.10000,%s}' % MESSAGES

        request = prepare_request(CHAT, body, FAITHFUL)

        assert request.body({}) == body.replace(b"gpt-4", b"acme/tiny")
        assert not request.asked.stream

    def test_the_model_is_left_out_where_the_engine_refuses_names(self) -> None:
        assert "model" not in sent(TRANSFORMERS, model="x")
        assert sent(FAITHFUL.under("acme/renamed"))["model"] == "acme/tiny"

    @pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
    def test_a_stream_is_asked_for_its_usage_whether_or_not_the_client_wants_to_see_it(self, options: Any) -> None:
        request = prepared(stream=True, stream_options=options)

        assert request.include_usage == bool(options and options.get("include_usage"))
        assert json.loads(request.body({}))["stream_options"] == {"include_usage": True}
        assert "stream_options" not in sent(TRANSFORMERS, stream=True, stream_options=options)
        assert "stream_options" not in sent(stream_options=options)

    @pytest.mark.parametrize("body", [b"", b"[1]", b'{"a":', b'"text"', b"nonsense"])
    def test_what_is_no_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadInferenceRequestError, match="JSON"):
            prepare_request(CHAT, body, FAITHFUL)

    @pytest.mark.parametrize("field", [b"messages", b"stream_options", b"tools", b"response_format", b"id_slot"])
    def test_what_is_nested_without_end_is_refused(self, field: bytes) -> None:
        with pytest.raises(BadInferenceRequestError):
            prepare_request(CHAT, b'{"stream":true,"%s":%s' % (field, b"[" * 100_000), FAITHFUL)

    def test_the_smaller_limit_is_the_limit(self) -> None:
        asked = sent(max_tokens=9, max_completion_tokens=5)
        assert (asked["max_tokens"], asked["max_completion_tokens"]) == (5, 5)

    def test_what_has_no_effect_on_an_answer_is_taken_and_dropped(self) -> None:
        inert = b'"user":"u","metadata":{"a":"b"},"store":true,"safety_identifier":"s","prompt_cache_key":"k"'
        neutral = b'"verbosity":"medium","service_tier":"auto","modalities":["text"],"n":null,"stop":null'
        request = prepare_request(CHAT, b"{%s,%s,%s}" % (inert, neutral, MESSAGES), FAITHFUL)
        assert request.fields.keys() == {"model", "messages"}
        assert sent(TRANSFORMERS, logprobs=False, presence_penalty=0.0, tool_choice="auto").keys() == {"messages"}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("logprobs", True),
            ("presence_penalty", 0.5),
            ("response_format", {"type": "json_object"}),
            ("tool_choice", "required"),
            ("top_k", 4),
            ("reasoning_effort", "high"),
        ],
    )
    def test_what_this_engine_ignores_is_refused_though_another_takes_it(self, field: str, value: Any) -> None:
        assert field in sent(replace(FAITHFUL, supports=parameters.VLLM), **{field: value})
        with pytest.raises(BadInferenceRequestError, match=f"`{field}`") as refusal:
            prepared(TRANSFORMERS, **{field: value})
        assert refusal.value.param == field

    @pytest.mark.parametrize("value", [-1, (1 << 17) + 1, 1 << 30])
    @pytest.mark.parametrize("field", ["repeat_last_n", "dry_penalty_last_n"])
    def test_no_request_reserves_memory_without_bounds(self, field: str, value: int) -> None:
        usual: dict[str, Any] = {field: 4096}
        assert sent(**usual)[field] == 4096
        with pytest.raises(BadInferenceRequestError, match=f"`{field}`"):
            prepared(**usual | {field: value})

    @pytest.mark.parametrize("name", ["max_length", "padding", "chat_template", "text_kwargs"])
    def test_variables_of_a_template_are_no_arguments_of_the_tokenizer(self, name: str) -> None:
        usual: dict[str, Any] = {"enable_thinking": False, "documents": []}
        assert sent(TRANSFORMERS, chat_template_kwargs=usual)["chat_template_kwargs"] == usual
        with pytest.raises(BadInferenceRequestError, match=f"`{name}`") as refusal:
            prepared(TRANSFORMERS, chat_template_kwargs=usual | {name: 1_000_000_000})
        assert refusal.value.param == "chat_template_kwargs"

    def test_what_an_engine_can_only_fail_on_is_refused(self) -> None:
        with pytest.raises(BadInferenceRequestError, match="`reasoning_format`"):
            prepared(reasoning_format="odd")
        with pytest.raises(BadInferenceRequestError, match="`grammar`"):
            prepared(grammar='root ::= "a"', json_schema={})

    def test_no_log_probabilities_and_none_but_of_the_token_itself_differ(self) -> None:
        assert "logprobs" not in sent(TRANSFORMERS, logprobs=False)
        with pytest.raises(BadInferenceRequestError, match="`logprobs`"):
            prepared(TRANSFORMERS, "completions", prompt="a", logprobs=0)

    @pytest.mark.parametrize(
        "prompt",
        [[[1, {"multimodal_data": []}]], [["a"]], ["a", ["b"]], [1, -1], [[1], "a"], [1, 1.5], [1 << 40], {"a": 1}],
    )
    @pytest.mark.parametrize(("route", "field"), [("completions", "prompt"), ("embeddings", "input")])
    def test_a_prompt_is_texts_or_tokens_to_the_last_item(self, route: str, field: str, prompt: Any) -> None:
        with pytest.raises(BadInferenceRequestError, match=f"`{field}`") as refusal:
            prepared(FAITHFUL, route, **{field: prompt})
        assert refusal.value.param == field

    @given(st.text(max_size=20), st.sampled_from([CHAT, "completions", "embeddings"]))
    def test_a_parameter_that_nobody_knows_reaches_no_engine(self, name: str, route: str) -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}]} if route == CHAT else {"prompt": "a", "input": "a"}
        if route != CHAT:
            body.pop("input" if route == "completions" else "prompt")
        before = prepare_request(route, json.dumps(body).encode(), FAITHFUL)
        try:
            request = prepare_request(route, json.dumps(body | {f"x_{name}": 1}).encode(), FAITHFUL)
        except BadInferenceRequestError:
            return
        assert request.fields == before.fields


class TestAnswer:
    def read(self, body: bytes, request: PreparedRequest) -> tuple[dict[str, Any], TokenUsage]:
        tally = request.tally()
        fields = read_answer(body, request, tally)
        return json.loads(write_answer(fields, tally.for_client())), tally.usage

    def test_only_what_openai_has_passes_under_the_public_name(self) -> None:
        choices = [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]
        told = {"id": "1", "model": "/data/m@main", "choices": choices, "timings": {"cache_n": 9}, "slot": 1}
        usage = {"prompt_tokens": 5, "completion_tokens": 7}

        answer, counted = self.read(json.dumps(told | {"usage": usage}).encode(), prepared())

        assert answer == {"id": "1", "choices": choices, "model": "acme/tiny", "usage": usage | {"total_tokens": 12}}
        assert counted == TokenUsage(5, 7)

    @pytest.mark.parametrize("form", ["float", "base64", None])
    def test_vectors_have_the_form_that_was_asked_for(self, form: str | None) -> None:
        request = prepared(FAITHFUL, "embeddings", input=["a", "b"], encoding_format=form)
        floats, packed = [1.0, -2.5], "AACAPwAAIMA="
        data = [{"index": 0, "embedding": floats}, {"index": 1, "embedding": packed}]

        answer, counted = self.read(json.dumps({"data": data, "usage": {"prompt_tokens": 2}}).encode(), request)

        wanted = packed if form == "base64" else floats
        assert [vector["embedding"] for vector in answer["data"]] == [wanted, wanted]
        assert counted == TokenUsage(2, 0)

    @pytest.mark.parametrize(("places", "order"), [((1, 0), [2.0, 1.0]), ((0, 0), [1.0, 2.0]), ((None, 1), [1.0, 2.0])])
    def test_vectors_are_in_the_order_of_the_texts(self, places: tuple[int | None, int], order: list[float]) -> None:
        data = [{"embedding": [value], "index": place} for value, place in zip((1.0, 2.0), places, strict=True)]
        answer, _ = self.read(json.dumps({"data": data}).encode(), prepared(FAITHFUL, "embeddings", input=["a", "b"]))
        assert [vector["embedding"] for vector in answer["data"]] == [[value] for value in order]

    @pytest.mark.parametrize(
        "data",
        [None, [], [{"embedding": [1.0]}], [{"embedding": []}] * 2, [{"embedding": ["a"]}] * 2, [{}, {}], [1, 2]],
    )
    def test_what_are_not_the_vectors_is_no_answer(self, data: Any) -> None:
        with pytest.raises(EngineRefusalError) as refusal:
            self.read(json.dumps({"data": data}).encode(), prepared(FAITHFUL, "embeddings", input=["a", "b"]))
        assert refusal.value.status == 502


class TestError:
    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            (b'{"error":{"code":400,"message":"Bad \'top_p\' at /data/m","type":"x"}}', None, "top_p"),
            (b'{"detail":"Bad /data/m@main"}', None, None),
            (b'{"detail":[{"loc":["body"],"msg":"Bad /data/m@main"}]}', None, None),
            (b'{"error":"Bad /data/m"}', None, None),
            (b'{"error":{"message":"failed to parse grammar /data/m","code":"bad_grammar"}}', "bad_grammar", None),
            (b"<html>/data/m", None, None),
        ],
    )
    def test_a_refusal_says_what_to_do_and_nothing_of_this_machine(
        self, body: bytes, code: str | None, param: str | None
    ) -> None:
        refusal = refusal_for_status(400, body, {}, {"top_p", "messages"})
        error = json.loads(refusal.envelope())["error"]

        assert "/data" not in error["message"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert refusal.status == 400

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (400, b'{"error":{"code":400,"type":"exceed_context_size_error","message":"x","n_ctx":2048}}'),
            (400, b'{"error":{"message":"x","code":"context_length_exceeded"}}'),
            (400, b'{"object":"error","message":"This model\'s maximum context length is 10 tokens. However, ..."}'),
            (400, b'{"error":{"message":"The input (99 tokens) is longer than the model\'s context length (9)."}}'),
            (500, b'{"error":{"code":500,"message":"input (99 tokens) is too large to process. increase"}}'),
            (413, b'{"detail":"too many input tokens"}'),
        ],
    )
    def test_what_is_too_long_is_told_by_its_code(self, status: int, body: bytes) -> None:
        refusal = refusal_for_status(status, body, {}, {"input"})
        error = json.loads(refusal.envelope())["error"]
        assert (refusal.status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")

    @pytest.mark.parametrize(
        ("status", "passed"),
        [(401, 502), (403, 502), (404, 502), (302, 502), (418, 502), (429, 429), (422, 422), (500, 500), (503, 503)],
    )
    def test_a_status_is_kept_where_it_speaks_of_the_request(self, status: int, passed: int) -> None:
        assert refusal_for_status(status, b"", {}, ()).status == passed

    @pytest.mark.parametrize(
        ("header", "seconds"), [("17", 17), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("9" * 99, None)]
    )
    def test_when_to_try_again_is_kept(self, header: str, seconds: int | None) -> None:
        assert refusal_for_status(429, b"", {"Retry-After": header}, ()).retry_after == seconds

    @given(
        st.recursive(st.none() | st.text() | st.integers() | st.floats(), lambda one: st.dictionaries(st.text(), one))
    )
    def test_an_error_of_any_shape_is_told(self, error: Any) -> None:
        assert refusal_in_body(error, ()).status in {400, 502}
        assert refusal_in_body({"message": error, "code": error, "type": error, "param": error}, ()).envelope()


class TestStream:
    USAGE = event(model="m", choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
    DONE = b"data: [DONE]\n\n"

    def test_the_usage_is_counted_and_shown_to_those_who_asked(self) -> None:
        out, counted = through(prepared(stream=True), delta("Hi"), self.USAGE, self.DONE)
        assert out.count(b"data:") == 2
        assert counted == TokenUsage(3, 2)
        asking = prepared(stream=True, stream_options={"include_usage": True})
        for usage in (self.USAGE, b""):
            *_, told, done, rest = through(asking, delta("Hi"), usage, self.DONE)[0].split(b"\n\n")
            assert (done + b"\n\n", rest) == (self.DONE, b"")
            shown = json.loads(told.removeprefix(b"data: "))
            assert (shown["choices"], shown["usage"]["completion_tokens"]) == ([], 2 if usage else 1)

    def test_usage_beside_the_last_choice_is_counted(self) -> None:
        last = event(
            choices=[{"finish_reason": "stop", "delta": {}}], usage={"prompt_tokens": 3, "completion_tokens": 9}
        )
        out, counted = through(prepared(TRANSFORMERS, stream=True), delta("a"), last, event(choices=[], usage=None))
        assert b"finish_reason" in out
        assert counted == TokenUsage(3, 9)

    def test_log_probabilities_of_a_completion_go_on_where_the_last_piece_ended(self) -> None:
        request = prepared(replace(FAITHFUL, chat_logprobs=True), "completions", prompt="a", logprobs=0, stream=True)
        assert json.loads(request.body({}))["logprobs"] == 1
        told = [{"token": "one", "logprob": -0.5, "top_logprobs": [{"token": "one", "logprob": -0.5}]}]
        out, _ = through(request, event(choices=[{"text": "one", "logprobs": {"content": told}}]) * 2, self.DONE)
        pieces = [json.loads(line[6:])["choices"][0]["logprobs"] for line in out.decode().splitlines() if "one" in line]
        assert [piece["text_offset"] for piece in pieces] == [[0], [3]]
        assert pieces[0] == {"tokens": ["one"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}

    def test_nothing_after_the_end_is_read(self) -> None:
        request = prepared(stream=True)
        reader = StreamReader(request, request.tally())
        assert len(reader.feed(delta("a") + self.DONE + delta("b"))) == 1
        assert reader.is_over

    def test_the_word_done_in_a_text_is_no_end(self) -> None:
        out, _ = through(prepared(stream=True), delta("[DONE]"), delta("data: [DONE]\n\n"))
        assert out.count(b"\n\n") == 3

    def test_what_comes_before_a_failure_passes(self) -> None:
        request = prepared(stream=True)
        reader = StreamReader(request, request.tally())
        assert len(reader.feed(delta("a") + event(error="lost /data/m") + delta("b"))) == 1
        assert reader.failure is not None
        assert "/data" not in str(reader.failure)

    @given(st.lists(st.integers(0, 2000), max_size=20))
    def test_how_the_stream_was_cut_does_not_matter(self, places: list[int]) -> None:
        stream = delta("é€😀") + b": ping\r\n\r\n" + delta('say "usage"') + self.USAGE + self.DONE
        edges = [0, *sorted(place % len(stream) for place in places), len(stream)]
        chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]

        assert through(prepared(stream=True), *chunks) == through(prepared(stream=True), stream)
