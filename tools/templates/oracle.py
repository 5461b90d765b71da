#!/usr/bin/env python3
"""Renders templates with Jinja2 as transformers sets it up, and writes what
t/engine/test_template.c compares with:

    oracle.py models DIR   t/golden/templates/models.json, for every .jinja
                           file in DIR and every request of conversations.py
    oracle.py cases        t/golden/templates/cases.json, for every template
                           of cases.py
    oracle.py messages     t/golden/templates/messages.json, for every list
                           of messages.py: what the template gets to see

Two things go beyond transformers.  Lists may be changed (append, pop), which
its sandbox refuses, and there is a filter from_json; some models' templates
need them.  A template that transformers itself cannot render is marked.
"""

import hashlib
import json
import os
import sys
from datetime import datetime, timezone

import jinja2
import jinja2.sandbox
from transformers.utils import chat_template_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cases import CASES, VARS                       # noqa: E402
from conversations import CONVERSATIONS             # noqa: E402
from messages import LISTS, TEMPLATES               # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "..", "t", "golden", "templates")
NOW = 1760000000

# whole texts are kept for these
SHOWN_MODELS = ["deepseek-ai-DeepSeek-V3.1", "openai-gpt-oss-120b",
                "Qwen-Qwen3-0.6B", "moonshotai-Kimi-K2"]
SHOWN_REQUESTS = ["turns", "parallel", "unicode"]

BASE = {
    "tools": None, "documents": None, "add_generation_prompt": True,
    "bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>",
    "unk_token": "<UNK>",
}


def environment(stock):
    """transformers' own environment, with a clock that stands still."""
    compiled = chat_template_utils._cached_compile_jinja_template("")
    env = compiled.environment
    env.globals["strftime_now"] = lambda fmt: datetime.fromtimestamp(
        NOW, timezone.utc).replace(tzinfo=None).strftime(fmt)
    if not stock:
        env.filters["from_json"] = json.loads
        safe = jinja2.sandbox.SandboxedEnvironment.is_safe_attribute
        env.is_safe_attribute = lambda o, a, v: safe(env, o, a, v)
    return env


def render(env, source, variables):
    """("text" | "raised" | "error", text or message)"""
    try:
        # a copy: templates may change lists
        variables = json.loads(json.dumps(variables))
        text = env.from_string(source).render(**variables)
        text.encode()
        return "text", text
    except Exception as e:
        if type(e) is jinja2.exceptions.TemplateError:
            return "raised", str(e)
        return "error", type(e).__name__ + ": " + str(e)


def write(name, data):
    path = os.path.join(GOLDEN, name)
    with open(path, "w") as f:
        json.dump(data, f, ensure_ascii=False, indent=1, sort_keys=False)
        f.write("\n")
    print(path, os.path.getsize(path), "bytes")


def models(folder):
    stock, ours = environment(True), environment(False)
    requests = {}
    for name, (messages, more) in CONVERSATIONS.items():
        requests[name] = {**BASE, "messages": messages, **more}
    renders = {}
    shown = {}
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".jinja"):
            continue
        model = file[:-6]
        with open(os.path.join(folder, file)) as f:
            source = f.read()
        out = {"sha256": hashlib.sha256(source.encode()).hexdigest()[:16],
               "beyond_transformers": False, "renders": {}}
        for name, variables in requests.items():
            kind, text = render(ours, source, variables)
            if render(stock, source, variables) != (kind, text):
                out["beyond_transformers"] = True
            if kind == "text":
                digest = hashlib.sha256(text.encode()).hexdigest()[:16]
                out["renders"][name] = "%d %s" % (len(text.encode()), digest)
                if model in SHOWN_MODELS and name in SHOWN_REQUESTS:
                    shown.setdefault(model, {})[name] = text
            else:
                out["renders"][name] = (
                    "raised " + text if kind == "raised" else "error")
        renders[model] = out
    write("models.json", {"now": NOW, "requests": requests,
                          "models": renders, "texts": shown})


def cases():
    env = environment(False)
    table = []
    for source in CASES:
        kind, text = render(env, source, VARS)
        table.append([source, kind, text if kind != "error" else ""])
        if "-v" in sys.argv:
            print(repr(source), kind, repr(text))
    write("cases.json", {"now": NOW, "vars": VARS, "cases": table})


def as_served(messages):
    """What a server does before it renders: text parts are joined, tool
    calls have arguments and not their text; as vLLM does for templates that
    take strings."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(
                part["text"] for part in message["content"])
        if message["role"] != "assistant" or "tool_calls" not in message:
            continue
        if not message["tool_calls"]:
            del message["tool_calls"]
            continue
        for call in message["tool_calls"]:
            arguments = call["function"].get("arguments")
            if not arguments:
                call["function"]["arguments"] = {}
            elif isinstance(arguments, str):
                call["function"]["arguments"] = json.loads(arguments)
    return messages


def messages():
    out = []
    for name, chat in LISTS.items():
        renders = {}
        for template, source in TEMPLATES.items():
            text, _ = chat_template_utils.render_jinja_template(
                [as_served(chat)], chat_template=source,
                add_generation_prompt=True)
            renders[template] = text[0]
        out.append({"name": name, "messages": chat, "renders": renders})
    write("messages.json", {"templates": TEMPLATES, "lists": out})


if __name__ == "__main__":
    if sys.argv[1:2] == ["models"]:
        models(sys.argv[2])
    elif sys.argv[1:2] == ["cases"]:
        cases()
    elif sys.argv[1:2] == ["messages"]:
        messages()
    else:
        sys.exit(__doc__)
