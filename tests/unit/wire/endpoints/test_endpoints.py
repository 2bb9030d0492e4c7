"""Decoding of endpoints other than chat completions, with recorded responses."""

from __future__ import annotations

import json
from email import message_from_bytes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types import errors
from foundry_api.types.messages import Usage
from foundry_api.wire.endpoints.embeddings import decode_embeddings
from foundry_api.wire.endpoints.responses import ResponseReader, ResponseStream, parse_item
from foundry_api.wire.endpoints.transcriptions import (
    TranscriptionStream,
    encode_multipart,
    parse_transcription,
)

SERVICE = "http://127.0.0.1:5273"
NEW = ResponseReader(SERVICE, "sdk-2.1")
OLD = ResponseReader(SERVICE, "sdk-1", truncates_at=2048)


class TestEmbeddings:
    def test_vectors_are_in_the_order_of_the_texts(self) -> None:
        body = b'{"data":[{"embedding":[0,1],"index":1},{"embedding":[1.0,0.0],"index":0}]}'
        assert decode_embeddings(body, 2) == (((1.0, 0.0), (0.0, 1.0)), None)

    def test_zero_tokens_mean_no_usage(self) -> None:
        item = b'{"data":[{"embedding":[1],"index":0}],"usage":'
        assert decode_embeddings(item + b'{"prompt_tokens":0,"total_tokens":0}}', 1)[1] is None
        counted = decode_embeddings(item + b'{"prompt_tokens":3,"total_tokens":3}}', 1)[1]
        assert counted == Usage(3, 0, 3)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b'{"data":[]}',
            b'{"data":[{"embedding":[1],"index":0},{"embedding":[1],"index":0}]}',
            b'{"data":[{"embedding":[1],"index":0},{"embedding":[1,2],"index":1}]}',
            b'{"data":[{"embedding":[],"index":0},{"embedding":[],"index":1}]}',
            b'{"data":[{"embedding":"AAAA","index":0},{"embedding":"AAAA","index":1}]}',
            b'{"data":[{"embedding":[1],"index":1},{"embedding":[1],"index":2}]}',
        ],
    )
    def test_other_numbers_of_vectors_are_refused(self, body: bytes) -> None:
        with pytest.raises(errors.ProtocolError):
            decode_embeddings(body, 2)


class TestTranscriptions:
    EVENTS = (
        b'data: {"id":"audio_1","text":"Gr\xc3\xbc"}\n\ndata: {"text":"n."}\n\ndata: [DONE]\n\n'
    )

    def test_pieces_are_yielded_as_they_arrive(self) -> None:
        stream = TranscriptionStream("m")
        assert [chunk.text for chunk in stream.feed(self.EVENTS)] == ["Grü", "n."]
        assert stream.finish()[0] == "Grün."

    @given(st.integers(0, len(EVENTS)))
    def test_any_split_gives_the_same_result(self, at: int) -> None:
        stream = TranscriptionStream("m")
        parts = (self.EVENTS[:at], self.EVENTS[at:])
        assert "".join(each.text for part in parts for each in stream.feed(part)) == "Grün."
        assert stream.finish()[0] == "Grün."

    def test_truncated_transcription_is_interrupted(self) -> None:
        stream = TranscriptionStream("m")
        list(stream.feed(self.EVENTS[:-20]))
        with pytest.raises(errors.StreamInterrupted):
            stream.finish()

    def test_error_is_raised_after_the_text_before_it(self) -> None:
        stream = TranscriptionStream("m")
        failure = b'data: {"error":{"message":"out of memory"}}\n\n'
        pieces = stream.feed(b'data: {"text":"a"}\n\n' + failure)
        assert next(pieces).text == "a"
        with pytest.raises(errors.ServerError, match="out of memory"):
            next(pieces)

    @pytest.mark.parametrize("data", [b"nonsense", b"[]", b'{"text":3}'])
    def test_other_events_are_refused(self, data: bytes) -> None:
        with pytest.raises(errors.ProtocolError):
            list(TranscriptionStream("m").feed(b"data: " + data + b"\n\n"))

    def test_upload_is_a_multipart_form(self) -> None:
        kind, body = encode_multipart("m:1", 'a "b".wav', b"\0\xff\r\n--", {"language": "de"})
        form = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        payload: Any = form.get_payload()
        parts = {part.get_param("name", header="content-disposition"): part for part in payload}
        assert {name: part.get_payload(decode=True) for name, part in parts.items()} == {
            "model": b"m:1",
            "language": b"de",
            "response_format": b"json",
            "file": b"\0\xff\r\n--",
        }
        assert parts["file"].get_filename() == "a %22b%22.wav"

    def test_complete_transcription_has_text(self) -> None:
        assert parse_transcription(b'{"text":"Hi"}') == ("Hi", (b'{"text":"Hi"}',))
        with pytest.raises(errors.ProtocolError):
            parse_transcription(b"{}")


def response(**members: object) -> dict[str, object]:
    message = {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "w0", "annotations": [], "logprobs": []}],
    }
    usage = {"input_tokens": 20, "output_tokens": 2, "total_tokens": 22}
    return {
        "id": "resp_1",
        "status": "completed",
        "model": "m:1",
        "output": [message],
        "usage": usage,
        "error": None,
        "max_output_tokens": None,
        "store": False,
        "metadata": None,
        **members,
    }


def make_response(reader: ResponseReader = NEW, **members: object) -> Any:
    return reader.parse_response(json.dumps(response(**members)).encode())


class TestOddTranscriptions:
    def test_keep_alives_and_odd_end_marks(self) -> None:
        stream = TranscriptionStream("m")
        list(stream.feed(b'data: {"text":"Hi"}\n\ndata:\n\ndata: [DONE] \n\n'))
        assert stream.done
        assert stream.finish()[0] == "Hi"

    @pytest.mark.parametrize(
        "failure",
        [
            b'data: {"error":"boom"}\n\n',
            b'data: {"detail":"boom"}\n\n',
            b"event: error\ndata: boom\n\n",
        ],
    )
    def test_failure_keeps_its_message(self, failure: bytes) -> None:
        with pytest.raises(errors.ServerError, match="boom"):
            list(TranscriptionStream("m").feed(failure))


class TestResponses:
    def test_text_is_that_of_the_messages(self) -> None:
        one = make_response()
        assert (one.output_text, one.status, one.model) == ("w0", "completed", "m:1")
        assert one.usage == Usage(20, 2, 22)
        assert json.loads(one.raw)["id"] == one.id == "resp_1"

    def test_truncation_reported_by_the_service(self) -> None:
        cut = make_response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
        assert (cut.status, cut.incomplete_reason) == ("incomplete", "max_output_tokens")

    def test_truncation_not_reported_by_the_service(self) -> None:
        cut = make_response(OLD, max_output_tokens=2)
        assert (cut.status, cut.incomplete_reason) == ("incomplete", "max_output_tokens")
        assert make_response(OLD, max_output_tokens=3).status == "completed"
        usage = {"input_tokens": 20, "output_tokens": 2048, "total_tokens": 2068}
        assert make_response(OLD, usage=usage).status == "incomplete"
        assert make_response(NEW, max_output_tokens=2).status == "completed"

    def test_usage_of_chained_responses_of_2_0_is_dropped(self) -> None:
        """2.0 counts the earlier turns as part of the answer."""
        reader = ResponseReader(SERVICE, "sdk-2.0", truncates_at=2048)
        usage = {"input_tokens": 23, "output_tokens": 86, "total_tokens": 109}
        chained = response(usage=usage, previous_response_id="resp_0", max_output_tokens=50)
        whole = reader.parse_response(json.dumps(chained).encode(), delta_count=35)
        assert (whole.status, whole.usage) == ("completed", None)
        cut = reader.parse_response(json.dumps(chained).encode(), delta_count=50)
        assert (cut.status, cut.incomplete_reason) == ("incomplete", "max_output_tokens")
        assert reader.parse_response(json.dumps(chained).encode()).status == "completed"

    def test_uncounted_usage_is_none(self) -> None:
        assert make_response(usage=None).usage is None
        zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        assert make_response(usage=zeros).usage is None

    def test_reasoning_and_calls_are_separate_items(self) -> None:
        output = [
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "reasoning", "id": "r", "content": [{"type": "text", "text": " So."}]},
            {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": "{}"},
        ]
        one = make_response(output=output)
        assert (one.reasoning, one.output_text) == ("Hm. So.", "")
        (call,) = one.function_calls
        assert (call.id, call.function.name, call.function.arguments) == ("c1", "f", "{}")

    def test_input_items(self) -> None:
        item = parse_item({"type": "message", "role": "user", "content": "Hi", "id": "m"})
        assert (item.text, item.role, item.raw["id"]) == ("Hi", "user", "m")
        returned = parse_item({"type": "function_call_output", "call_id": "c1", "output": "5"})
        assert (returned.text, returned.call_id) == ("5", "c1")
        assert parse_item({"content": [None, "x", {"text": 3}, {"text": "a"}]}).text == "a"

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"id":"r","status":"odd"}'])
    def test_invalid_response_is_refused(self, data: bytes) -> None:
        with pytest.raises(errors.ProtocolError):
            NEW.parse_response(data)
        with pytest.raises(errors.ProtocolError):
            NEW.parse_page(b'{"data":[' + (data or b"3") + b"]}")

    def test_page_has_more(self) -> None:
        listed = {"object": "list", "data": [response()], "has_more": True}
        page = NEW.parse_page(json.dumps(listed).encode())
        assert ([each.id for each in page.responses], page.has_more) == (["resp_1"], True)


def event(kind: str, **members: object) -> bytes:
    data = json.dumps({"type": kind, **members})
    return f"event: {kind}\ndata: {data}\n\n".encode()


BEGUN = event("response.created", response=response(status="in_progress", output=[], usage=None))
TEXT = "response.output_text.delta"
DELTAS = event("response.output_text.delta", delta="w") + event(
    "response.output_text.delta", delta="0"
)
DONE = b"data: [DONE]\n\n"


class TestStreamedResponses:
    def test_last_event_has_the_complete_response(self) -> None:
        stream = ResponseStream(NEW)
        received = list(
            stream.feed(BEGUN + DELTAS + event("response.completed", response=response()) + DONE)
        )
        assert "".join(each.text for each in received) == "w0"
        assert (received[0].response.status if received[0].response else None) == "in_progress"
        assert received[-1].type == "response.completed"
        assert stream.finish() == received[-1].response
        assert stream.done

    def test_truncated_response_ends_incomplete(self) -> None:
        stream = ResponseStream(OLD)
        last = event("response.completed", response=response(max_output_tokens=2))
        assert [each.type for each in stream.feed(last)] == ["response.incomplete"]
        assert stream.finish().incomplete_reason == "max_output_tokens"

    def test_failure_is_raised_as_its_type(self) -> None:
        why = "it requires 11067 total tokens, which exceeds the model's maximum context length"
        failed = response(status="failed", error={"code": "server_error", "message": why})
        received = ResponseStream(NEW).feed(
            BEGUN + DELTAS + event("response.failed", response=failed)
        )
        assert [next(received).type for _ in range(2)] == ["response.created", TEXT]
        with pytest.raises(errors.ContextOverflow, match="11067"):
            list(received)

    def test_start_events_are_held_back(self) -> None:
        """A failure before the first text can be retried."""
        failed = response(status="failed", error={"code": "x", "message": "no"})
        stream = ResponseStream(NEW)
        assert list(stream.feed(BEGUN)) == []
        with pytest.raises(errors.ServerError):
            list(stream.feed(event("response.failed", response=failed)))

    def test_id_is_reported_at_once(self) -> None:
        ids: list[str] = []
        stream = ResponseStream(NEW, ids.append)
        list(stream.feed(BEGUN + DELTAS))
        assert ids == ["resp_1"]

    def test_reasoning_is_separate(self) -> None:
        stream = ResponseStream(NEW)
        (thought,) = stream.feed(event("response.reasoning.delta", delta="Hm."))
        assert (thought.reasoning, thought.text) == ("Hm.", "")

    @pytest.mark.parametrize("cut", range(0, 40, 3))
    def test_reasoning_in_the_text_is_separated(self, cut: int) -> None:
        text = "<think>\nHm.\n</think>\n\nYes <think>"
        deltas = [event(TEXT, delta=piece) for piece in (text[:cut], text[cut:])]
        item = {"type": "message", "role": "assistant", "content": [{"text": text}]}
        last = event("response.completed", response=response(output=[item]))
        stream = ResponseStream(NEW)
        received = list(
            stream.feed(BEGUN + b"".join(deltas) + event("response.output_text.done") + last)
        )
        assert "".join(each.reasoning for each in received) == "Hm."
        assert "".join(each.text for each in received) == "Yes <think>"
        made = stream.finish()
        assert (made.reasoning, made.output_text) == ("Hm.", "Yes <think>")
        assert made.output[0].raw == item

    def test_text_that_resembles_a_marker_is_kept(self) -> None:
        events = event(TEXT, delta="<thi") + event("response.output_text.done")
        assert "".join(each.text for each in ResponseStream(NEW).feed(events)) == "<thi"

    def test_closing_marker_alone_is_a_marker(self) -> None:
        item = {"type": "message", "role": "assistant", "content": "Hm.\n</think>\n\nYes"}
        assert (parse_item(item).reasoning, parse_item(item).text) == ("Hm.", "Yes")
        assert parse_item({**item, "role": "user"}).text == item["content"]

    def test_refusal_is_yielded(self) -> None:
        (refused,) = ResponseStream(NEW).feed(event("response.refusal.delta", delta="No."))
        assert (refused.refusal, refused.text) == ("No.", "")
        parts = [{"type": "refusal", "refusal": "I may not."}]
        made = make_response(output=[{"type": "message", "role": "assistant", "content": parts}])
        assert (made.refusal, made.output_text) == ("I may not.", "")

    @pytest.mark.parametrize(
        "mark", [b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"data:\n\n" + DONE]
    )
    def test_end_mark_in_any_notation(self, mark: bytes) -> None:
        stream = ResponseStream(NEW)
        list(stream.feed(event("response.completed", response=response()) + mark))
        assert stream.done
        assert stream.finish().status == "completed"

    @pytest.mark.parametrize(
        "failure",
        [
            b'event: error\ndata: {"type":"error","code":null,"message":"boom","param":null}\n\n',
            b'data: {"type":"error","error":{"message":"boom"}}\n\n',
            b'data: {"error":{"message":"boom","type":null}}\n\n',
            b'data: {"error":"boom"}\n\n',
            b"event: error\ndata: boom\n\n",
            b'data: {"object":"error","message":"boom"}\n\n',
            b'data: {"detail":"boom"}\n\n',
        ],
    )
    def test_any_failure_keeps_its_message_and_is_not_retried(self, failure: bytes) -> None:
        with pytest.raises(errors.ServerError, match="boom") as caught:
            list(ResponseStream(NEW).feed(failure))
        assert not caught.value.retryable

    @pytest.mark.parametrize(
        "members",
        [
            {"usage": {"input_tokens": None, "output_tokens": 2.0, "total_tokens": 3}},
            {"model": None, "output": None, "metadata": None},
            {"created_at": 1.5, "instructions": [{"role": "system"}], "metadata": {"a": 1}},
        ],
    )
    def test_odd_members_do_not_lose_the_answer(self, members: dict[str, Any]) -> None:
        assert make_response(**members).status == "completed"

    def test_item_is_yielded(self) -> None:
        item = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
        (added,) = ResponseStream(NEW).feed(event("response.output_item.done", item=item))
        assert added.item
        assert (added.item.name, added.item.call_id) == ("f", "c")

    @pytest.mark.parametrize("end", [b"", DONE])
    def test_response_without_end_is_interrupted(self, end: bytes) -> None:
        stream = ResponseStream(NEW)
        list(stream.feed(BEGUN + DELTAS + end))
        with pytest.raises(errors.StreamInterrupted):
            stream.finish()

    @pytest.mark.parametrize("data", [b"nonsense", b"[]", b'{"type":"x","response":3}'])
    def test_other_events_are_refused(self, data: bytes) -> None:
        with pytest.raises(errors.ProtocolError):
            list(ResponseStream(NEW).feed(b"data: " + data + b"\n\n"))
