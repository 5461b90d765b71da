#!/usr/bin/env python3
"""Drives a running server with the stock OpenAI client, unchanged.

    pip install openai
    make demo
    python3 tools/openai_check.py [http://127.0.0.1:8080/v1]

Prints a line a check; exits 1 if one failed.
"""

import sys

import openai

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
CLIENT = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": "Tell me a story."}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def model():
    return CLIENT.models.list().data[0].id


@check
def models():
    listed = CLIENT.models.list().data
    assert listed and listed[0].object == "model"
    assert CLIENT.models.retrieve(listed[0].id).id == listed[0].id
    try:
        CLIENT.models.retrieve("no-such-model")
    except openai.NotFoundError as e:
        assert e.code == "model_not_found", e.code
    else:
        raise AssertionError("an unknown model was found")


@check
def chat():
    r = CLIENT.chat.completions.create(model=model(), messages=ASK,
                                       max_tokens=12, temperature=0)
    assert r.object == "chat.completion" and r.id.startswith("chatcmpl-")
    assert r.choices[0].message.role == "assistant"
    assert r.choices[0].message.content
    assert r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.completion_tokens <= 12
    assert (r.usage.total_tokens
            == r.usage.prompt_tokens + r.usage.completion_tokens)
    assert r.usage.prompt_tokens_details.cached_tokens >= 0
    assert r.system_fingerprint.startswith("fp_")


@check
def chat_stream_is_the_same_answer():
    args = dict(model=model(), messages=ASK, max_tokens=24, temperature=1,
                seed=7)
    whole = CLIENT.chat.completions.create(**args)
    text, roles, finish, usage = "", [], [], None
    for c in CLIENT.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **args):
        if c.usage:
            usage = c.usage
        for choice in c.choices:
            text += choice.delta.content or ""
            if choice.delta.role:
                roles.append(choice.delta.role)
            if choice.finish_reason:
                finish.append(choice.finish_reason)
    assert text == whole.choices[0].message.content
    assert roles == ["assistant"]
    assert finish == [whole.choices[0].finish_reason]
    assert usage.completion_tokens == whole.usage.completion_tokens


@check
def chat_n():
    r = CLIENT.chat.completions.create(model=model(), messages=ASK, n=3,
                                       max_tokens=10, seed=1)
    assert [c.index for c in r.choices] == [0, 1, 2]
    seen = {0: "", 1: "", 2: ""}
    for c in CLIENT.chat.completions.create(model=model(), messages=ASK, n=3,
                                            max_tokens=10, seed=1,
                                            stream=True):
        for choice in c.choices:
            seen[choice.index] += choice.delta.content or ""
    assert [c.message.content for c in r.choices] == list(seen.values())


@check
def chat_logprobs():
    r = CLIENT.chat.completions.create(model=model(), messages=ASK,
                                       max_tokens=8, temperature=0,
                                       logprobs=True, top_logprobs=4)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens \
        or r.choices[0].finish_reason == "stop"
    for t in content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 4
        assert t.token == t.top_logprobs[0].token
        assert t.bytes is not None


@check
def chat_stream_logprobs_and_n():
    args = dict(model=model(), messages=ASK, max_tokens=6, seed=3, n=2,
                logprobs=True, top_logprobs=2)
    whole = CLIENT.chat.completions.create(**args)
    seen = {0: [], 1: []}
    for c in CLIENT.chat.completions.create(stream=True, **args):
        for choice in c.choices:
            if choice.logprobs:
                seen[choice.index] += choice.logprobs.content
    for choice in whole.choices:
        assert ([t.model_dump() for t in choice.logprobs.content]
                == [t.model_dump() for t in seen[choice.index]])


@check
def chat_stream_cancel():
    # a client that goes leaves the engine free for the next
    for _ in range(20):
        stream = CLIENT.chat.completions.create(
            model=model(), messages=ASK, max_tokens=1000, stream=True,
            extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    r = CLIENT.chat.completions.create(model=model(), messages=ASK,
                                       max_tokens=4)
    assert r.usage.completion_tokens <= 4
    with CLIENT.chat.completions.with_streaming_response.create(
            model=model(), messages=ASK, max_tokens=4) as raw:
        assert raw.headers["content-type"].startswith("application/json")


@check
def chat_async():
    import asyncio

    async def many():
        async with openai.AsyncOpenAI(base_url=BASE, api_key="none",
                                      max_retries=0) as client:
            return await asyncio.gather(*[client.chat.completions.create(
                model=name, messages=ASK, max_tokens=12, seed=i % 4)
                for i in range(16)])

    name = model()
    answers = [r.choices[0].message.content for r in asyncio.run(many())]
    assert answers[:4] * 4 == answers


@check
def chat_stop():
    args = dict(model=model(), messages=ASK, max_tokens=60, temperature=0)
    whole = CLIENT.chat.completions.create(**args).choices[0].message.content
    stop = whole[len(whole) // 2:len(whole) // 2 + 3]
    r = CLIENT.chat.completions.create(stop=[stop], **args)
    assert r.choices[0].finish_reason == "stop"
    assert r.choices[0].message.content == whole[:whole.index(stop)]


@check
def completions():
    r = CLIENT.completions.create(model=model(), prompt="Once upon a time",
                                  max_tokens=10, temperature=0)
    assert r.object == "text_completion" and r.choices[0].text
    text = ""
    for c in CLIENT.completions.create(model=model(), stream=True,
                                       prompt="Once upon a time",
                                       max_tokens=10, temperature=0):
        text += c.choices[0].text
    assert text == r.choices[0].text


@check
def completions_list_and_echo():
    r = CLIENT.completions.create(model=model(), prompt=["One day", "A cat"],
                                  max_tokens=5, temperature=0, echo=True)
    assert [c.index for c in r.choices] == [0, 1]
    assert r.choices[0].text.startswith("One day")
    assert r.choices[1].text.startswith("A cat")


@check
def completions_logprobs():
    r = CLIENT.completions.create(model=model(), prompt="Once upon a time",
                                  max_tokens=5, temperature=0, logprobs=2,
                                  echo=True)
    lp = r.choices[0].logprobs
    assert (len(lp.tokens) == len(lp.token_logprobs)
            == len(lp.top_logprobs) == len(lp.text_offset))
    assert lp.token_logprobs[0] is None
    assert all(x <= 0 for x in lp.token_logprobs[1:])


@check
def errors():
    def status(expected, param=None, **kw):
        args = dict(model=model(), messages=ASK, max_tokens=4)
        args.update(kw)
        try:
            CLIENT.chat.completions.create(**args)
        except openai.APIStatusError as e:
            assert e.status_code == expected, (e.status_code, kw)
            assert param is None or e.param == param, (e.param, kw)
            assert e.response.headers.get("x-request-id")
        else:
            raise AssertionError(f"{kw} was accepted")

    status(404, model="no-such-model")
    status(400, "temperature", temperature=3)
    status(400, "messages", messages=[])
    status(400, "n", n=100)
    status(400, "tools", tools=[{"type": "function", "function": {
        "name": "f", "parameters": {}}}])
    status(400, "response_format", response_format={"type": "json_object"})
    status(400, messages=[{"role": "user",
                           "content": "a " * 100000}])

    # what is wrong is a status, also where a stream was asked for
    status(400, "temperature", temperature=-1, stream=True)
    status(404, model="no-such-model", stream=True)

    try:
        CLIENT.completions.create(model=model(), prompt="a", max_tokens=-1)
    except openai.BadRequestError as e:
        assert e.param == "max_tokens" and e.type == "invalid_request_error"
    else:
        raise AssertionError("max_tokens -1 was accepted")


def main():
    failed = 0
    for function in CHECKS:
        try:
            function()
            print(f"ok    {function.__name__}")
        except Exception as e:
            failed += 1
            print(f"FAIL  {function.__name__}: {type(e).__name__}: {e}")
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
