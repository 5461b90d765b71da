"""Messages as clients send them, and templates that show what they see."""

TEMPLATES = {
    "all": "{{ messages | tojson(sort_keys=true) }}",
    "harmony": """\
{%- for m in messages -%}
<|{{ m.role }}|>
{%- if m.thinking is defined and m.thinking %}[{{ m.thinking }}]{% endif %}
{%- if m.tool_calls %}
{%- for c in m.tool_calls %}{{ c.function.name }}(
{%- for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }};
{%- endfor %}){% endfor %}
{%- endif %}{{ m.content }}
{% endfor -%}
{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    "qwen": """\
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.reasoning_content is string -%}
<think>{{ m.reasoning_content }}</think>{% endif %}
{%- for c in m.tool_calls or [] %}
<tool_call>{"name": "{{ c.function.name }}", "arguments": {{
c.function.arguments | tojson }}}</tool_call>
{%- endfor %}{{ m.content }}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
}


def call(**function):
    return {"id": "call_0", "type": "function", "function": function}


def asked(*calls, **more):
    return [{"role": "user", "content": "Go."},
            {"role": "assistant", "content": None, "tool_calls": list(calls),
             **more},
            {"role": "tool", "tool_call_id": "call_0", "content": "done"}]


def answered(**more):
    return [{"role": "user", "content": "6 * 7?"},
            {"role": "assistant", "content": "42", **more},
            {"role": "user", "content": "Sure?"}]


def said(*texts):
    return [{"role": "user",
             "content": [{"type": "text", "text": t} for t in texts]}]


LISTS = {
    "plain": answered(),
    "parts": said("one", "two\n", "", "three"),
    "one-part": said("alone"),
    "no-parts": said(),
    "empty-parts": said("", ""),
    "unicode-parts": said("日本", "é", "𝄞"),
    "reasoning-content": answered(reasoning_content="six sevens"),
    "thinking": answered(thinking="six sevens"),
    "reasoning": answered(reasoning="six sevens"),
    "reasoning-null": answered(reasoning_content=None),
    "reasoning-null-first": answered(reasoning_content=None,
                                     thinking="of the second name"),
    "reasoning-both": answered(reasoning_content="one", thinking="other"),
    "reasoning-thinking-null": answered(reasoning_content="one",
                                        thinking=None),
    "reasoning-all": answered(reasoning="c", thinking="b",
                              reasoning_content="a"),
    "reasoning-empty": answered(reasoning_content=""),
    "reasoning-user": [{"role": "user", "content": "x", "reasoning": "y"}],
    "arguments-text": asked(call(
        name="f", arguments='{"city": "Oslo", "n": 3, "x": 0.5}')),
    "arguments-object": asked(call(name="f", arguments={"city": "Oslo"})),
    "arguments-nested": asked(call(
        name="f", arguments='{"b": [1, {"a": null}], "a": "\\u00e9 <&>"}')),
    "arguments-empty-text": asked(call(name="f", arguments="")),
    "arguments-null": asked(call(name="f", arguments=None)),
    "arguments-none": asked(call(name="f")),
    "arguments-empty-object": asked(call(name="f", arguments="{}")),
    "arguments-two": asked(call(name="f", arguments='{"a": 1}'),
                           call(name="g", arguments={"b": True}),
                           reasoning_content="both"),
    "calls-empty": answered(tool_calls=[]),
    "calls-null": answered(tool_calls=None),
    "calls-user": [{"role": "user", "content": "x", "tool_calls": [
        call(name="f", arguments={"a": "not an assistant"})]}],
}
