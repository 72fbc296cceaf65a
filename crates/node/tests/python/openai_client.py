"""Checks a Lockstep server with the real `openai` client: what it sends is accepted, what it
gets it understands, and errors arrive as its own exception types.

    python openai_client.py http://127.0.0.1:8080/v1
"""

import sys

import openai


def check(condition: bool, what: str) -> None:
    print("ok" if condition else "FAILED", what)
    if not condition:
        sys.exit(1)


def fails(kind: type, code: str, call) -> None:
    """`call` raises `kind` with this code."""
    try:
        call()
    except kind as error:
        check(error.code == code, f"{kind.__name__} with code {error.code}")
    else:
        check(False, f"no {kind.__name__}")


def main(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)

    models = client.models.list().data
    check(len(models) == 1, f"models.list: {[model.id for model in models]}")
    model = models[0].id
    check(client.models.retrieve(model).id == model, "models.retrieve")

    messages = [{"role": "user", "content": "Tell me a story."}]
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=16, seed=1)
    choice = chat.choices[0]
    check(choice.message.role == "assistant" and len(choice.message.content) > 0, "chat")
    check(choice.finish_reason in ("stop", "length"), f"finish_reason {choice.finish_reason}")
    usage = chat.usage
    check(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"usage {usage.total_tokens}")
    check(chat.system_fingerprint.startswith("fp_"), "system_fingerprint")
    check("model_root" in chat.lockstep, "the lockstep field")

    again = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=16, seed=1)
    check(again.choices[0].message.content == choice.message.content, "the same seed, the same answer")

    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=16, seed=1, stream=True, stream_options={"include_usage": True}
    )
    text, streamed = "", None
    for chunk in stream:
        streamed = chunk.usage or streamed
        text += "".join(part.delta.content or "" for part in chunk.choices)
    check(text == choice.message.content, "a stream gives the same answer")
    check(streamed is not None and streamed.total_tokens == usage.total_tokens, "usage at the end of a stream")

    several = client.chat.completions.create(
        model=model, messages=messages, n=2, temperature=1.0, top_p=0.9, max_tokens=8, seed=2, logprobs=True, top_logprobs=3
    )
    check([part.index for part in several.choices] == [0, 1], "n = 2")
    tokens = several.choices[0].logprobs.content
    check(all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens), "logprobs")

    completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=2)
    check(len(completion.choices[0].text) > 0, "completions")
    check(len(completion.choices[0].logprobs.tokens) == len(completion.choices[0].logprobs.token_logprobs), "their logprobs")
    stop = completion.choices[0].text[4:7]
    stopped = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stop=[stop])
    check(stop not in stopped.choices[0].text and stopped.choices[0].finish_reason == "stop", f"stop {stop!r}")
    pieces = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
    check("".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text, "a stream of completions")

    def ask(**fields):
        return lambda: client.chat.completions.create(**{"model": model, "messages": messages, **fields})

    fails(openai.NotFoundError, "model_not_found", ask(model="no-such-model"))
    fails(openai.BadRequestError, "invalid_value", ask(temperature=3))
    fails(openai.BadRequestError, "unsupported_parameter", ask(response_format={"type": "json_object"}))
    long = [{"role": "user", "content": "word " * 5000}]
    fails(openai.BadRequestError, "context_length_exceeded", ask(messages=long))
    print("all checks passed")


if __name__ == "__main__":
    main(sys.argv[1])
