"""Goldens of a tiktoken.model, read as Kimi-K2's tokenizer class reads it.

    python3 tools/tokenizers/kimi.py QWEN3

Kimi's own vocabulary is not to be had from a package registry, so its rules
(pattern, cuts, reserve) are run on the ranks of another one: QWEN3 holds
Qwen3's tokenizer.json, whose ids below its added tokens are tiktoken ranks;
t/engine/test_tokenizer.c makes the same tiktoken.model of it.  Written to
t/golden/tokenizer/ are

  kimi/tokenizer_config.json   class and added tokens, in Kimi-K2's places
  kimi.ids, kimi.text          as goldens.py writes them
  kimi.long                    texts beyond the cuts: a unit, how often it is
                               there, how many ids, their FNV-1a hash

Needs tiktoken (PyPI), the version that is printed and kept in README.md.
"""

import json
import os
import sys

import tiktoken

from goldens import GOLDEN, write_ids, write_text
from lines import leb128

CLASS = "tokenization_kimi.TikTokenTokenizer"
RESERVED = 256 + 2
MAX_TEXT, MAX_RUN = 400_000, 25_000

# places behind the ranks; those with False are written, not skipped
ADDED = [(0, "[BOS]", True), (1, "[EOS]", True), (2, "<|im_end|>", True),
         (3, "<|im_user|>", True), (4, "<|im_assistant|>", True),
         (6, "<|start_header_id|>", True), (7, "<|end_header_id|>", True),
         (9, "[EOT]", True), (10, "<|im_system|>", True),
         (11, "<|tool_calls_section_begin|>", False),
         (12, "<|tool_calls_section_end|>", False),
         (13, "<|tool_call_begin|>", False),
         (14, "<|tool_call_argument_begin|>", False),
         (15, "<|tool_call_end|>", False), (17, "<|im_middle|>", True),
         (254, "[UNK]", True), (255, "[PAD]", True)]

LETTER = r"\p{Lm}\p{Lo}\p{M}"
ANY, LOWER, UPPER = r"[^\r\n\p{L}\p{N}]?", r"\p{Ll}" + LETTER, (
    r"\p{Lu}\p{Lt}" + LETTER)
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join([
    r"[\p{Han}]+",
    ANY + rf"[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+" + SUFFIX,
    ANY + rf"[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*" + SUFFIX,
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+",
    r"\s+(?!\S)", r"\s+"])

LONG = [("a", 60_000), ("中", 60_000), (" ", 60_000), ("\n", 26_000),
        ("ab \n", 110_000), ("é", 401_000), ("\x1c", 30_000),
        ("12 ", 200_000), ("x" * 24_999 + "  ", 20), ("😀", 25_001)]


def bytes_of():
    """The byte that each character of tokenizer.json's tokens stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain},
            **{chr(256 + i): b for i, b in enumerate(rest)}}


def ranks(path):
    of = bytes_of()
    with open(os.path.join(path, "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    r = {bytes(of[c] for c in token): i for token, i in vocab.items()}
    assert sorted(r.values()) == list(range(len(r)))
    return r


def cuts(text):
    """The text in the parts that Kimi's class hands to tiktoken."""
    for at in range(0, len(text), MAX_TEXT):
        part = text[at:at + MAX_TEXT]
        start = run = 0
        for i, c in enumerate(part):
            same = i > 0 and c.isspace() == part[i - 1].isspace()
            run = run + 1 if same else 1
            if run > MAX_RUN:
                yield part[start:i]
                start, run = i, 1
        yield part[start:]


class Kimi:
    """What goldens.py asks of a tokenizer."""

    class Ids(list):
        ids = property(lambda self: self)

    class Added:
        def __init__(self, special):
            self.special = special

    def __init__(self, of):
        n = len(of)
        names = {n + at: name for at, name, _ in ADDED}
        self.special = {n + at for at, _, special in ADDED if special}
        self.added = range(n, n + RESERVED)
        self.model = tiktoken.Encoding(
            name="kimi", pat_str=PATTERN, mergeable_ranks=of,
            special_tokens={names.get(i, f"<|reserved_token_{i}|>"): i
                            for i in self.added})

    def encode(self, text, add_special_tokens=False):
        return self.Ids(i for part in cuts(text) for i in self.model.encode(
            part, allowed_special="all"))

    def decode(self, ids, skip_special_tokens):
        return self.model.decode([i for i in ids if not (
            skip_special_tokens and i in self.special)])

    def id_to_token(self, i):
        return None

    def get_vocab_size(self):
        return self.model.n_vocab

    def get_added_tokens_decoder(self):
        return {i: self.Added(i in self.special) for i in self.added}


def write_config(n):
    where = os.path.join(GOLDEN, "kimi")
    os.makedirs(where, exist_ok=True)
    added = {str(n + at): dict(content=name, lstrip=False, normalized=False,
                               rstrip=False, single_word=False,
                               special=special)
             for at, name, special in ADDED}
    with open(os.path.join(where, "tokenizer_config.json"), "w") as f:
        json.dump({"added_tokens_decoder": added, "auto_map": {
            "AutoTokenizer": [CLASS, None]}, "bos_token": "[BOS]",
            "clean_up_tokenization_spaces": False, "eos_token": "[EOS]",
            "model_max_length": 10 ** 30, "pad_token": "[PAD]",
            "tokenizer_class": "TikTokenTokenizer", "unk_token": "[UNK]"},
            f, indent=1)
        f.write("\n")


def write_long(t, path):
    with open(path, "wb") as f:
        for unit, times in LONG:
            ids = t.encode(unit * times)
            h = 0xCBF29CE484222325
            for i in ids:
                h = (h ^ i) * 0x100000001B3 % 2 ** 64
            s = unit.encode()
            f.write(leb128(len(s)) + s + leb128(times) + leb128(len(ids))
                    + h.to_bytes(8, "little"))


def main():
    print("tiktoken", tiktoken.__version__)
    of = ranks(sys.argv[1])
    t = Kimi(of)
    write_config(len(of))
    total = write_ids(t, os.path.join(GOLDEN, "kimi.ids"))
    write_text(t, os.path.join(GOLDEN, "kimi.text"))
    write_long(t, os.path.join(GOLDEN, "kimi.long"))
    print("kimi", len(of), "ranks,", total, "ids")


if __name__ == "__main__":
    main()
