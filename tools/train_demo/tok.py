"""The tokenizer: byte-level BPE with DeepSeek-V3's pre-tokenizer."""

import json

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        pre_tokenizers, processors, trainers)

import text

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
SPECIAL = [BOS, EOS, PAD, USER, ASSISTANT]
MAIN = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")

TEMPLATE = """\
{%- if not add_generation_prompt is defined -%}
  {%- set add_generation_prompt = false -%}
{%- endif -%}
{%- set ns = namespace(system_prompt='', is_first_sp=true) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' or message['role'] == 'developer' -%}
    {%- if ns.is_first_sp -%}
      {%- set ns.system_prompt = ns.system_prompt + message['content'] -%}
      {%- set ns.is_first_sp = false -%}
    {%- else -%}
      {%- set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{{- bos_token }}{{ ns.system_prompt }}
{%- for message in messages -%}
  {%- if message['role'] == 'user' or message['role'] == 'tool' -%}
    {{- '<｜User｜>' + message['content'] -}}
  {%- endif -%}
  {%- if message['role'] == 'assistant' -%}
    {{- '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<｜Assistant｜>' -}}
{%- endif -%}
"""


def train(vocab_size, gen, seed=1, docs=60000):
    tk = Tokenizer(models.BPE())
    split = lambda rx: pre_tokenizers.Split(Regex(rx), "isolated")
    tk.pre_tokenizer = pre_tokenizers.Sequence([
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(MAIN),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tk.decoder = decoders.ByteLevel()
    tk.post_processor = processors.ByteLevel(
        add_prefix_space=True, trim_offsets=False, use_regex=True)
    special = [AddedToken(s, normalized=False, special=True) for s in SPECIAL]
    g = gen(seed)

    def corpus():
        for i in range(101):
            for _ in range(300):
                yield str(i)
        for w in (gen.MIXED + text.NAMES + text.CITIES + text.JOBS):
            for _ in range(40):
                yield f" {w}"
        for _ in range(docs):
            c = g.chat()
            if c["system"]:
                yield c["system"]
            for u, a in c["turns"]:
                yield u
                yield a

    tk.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2))
    return tk


def config(max_len):
    return {"add_bos_token": True, "add_eos_token": False,
            "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
            "unk_token": None, "clean_up_tokenization_spaces": False,
            "legacy": True, "model_max_length": max_len,
            "tokenizer_class": "PreTrainedTokenizerFast"}


def save(tk, where, max_len):
    where.mkdir(parents=True, exist_ok=True)
    tk.save(str(where / "tokenizer.json"))
    (where / "tokenizer_config.json").write_text(
        json.dumps(config(max_len), ensure_ascii=False, indent=2) + "\n")
    (where / "chat_template.jinja").write_text(TEMPLATE)


def encode_chat(tk, c, ids):
    """Token ids of a conversation and the weight of each as a target."""
    out, w = [ids[BOS]], [0.0]
    if c["system"]:
        s = tk.encode(c["system"], add_special_tokens=False).ids
        out += s
        w += [0.0] * len(s)
    for u, a in c["turns"]:
        u = tk.encode(u, add_special_tokens=False).ids
        a = tk.encode(a, add_special_tokens=False).ids
        out += [ids[USER]] + u + [ids[ASSISTANT]] + a + [ids[EOS]]
        w += [0.0] * (len(u) + 2) + [1.0] * (len(a) + 1)
    return out, w
