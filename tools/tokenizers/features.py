"""Writes t/golden/tokenizer/features.json.

    python3 tools/tokenizers/features.py t/golden/tokenizer/features.json

Small tokenizers, each for one feature that the big ones do not use, with what
the reference library makes of a few texts: "pieces" of a pre-tokenizer, "ids",
"decoded" texts.
"""

import json
import sys

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer

TEXTS = ["", " ", "a", "abc", " abc", "abc ", "a b  c   d", "Hello, world!",
         "\n\n a\r\nb \t c", "12 345 6789x0", "٣٤٥ Ⅷ½ ²", "don't WE'LL 'ſ x'S",
         "日本語 テスト 한국어", "é e\u0301 ﬁ Å ℌ", "a\u180eb\u2028c\u0085d\u00a0e",
         "snake_case x1_y\u0301z ‿ ①ⓐ", "--a--b--", "::a:::b::", "[x] (y) {z}",
         "▁a▁▁b", "<0x0A>", "aeioubcdfg", "deadBEEF0x1F", "a.b,c;d", "😀😀 a",
         "𝟙𝟚 𐐀𐐨", "\ua7da\U0001e5d0\U0001fae9! \U0001fa77", "x\u200dy\u200cz",
         "\x00\x01a\x7f", "aaa bbb ccc aaa", "ab\ncd\n", "ＡＢ１２"]

PATTERNS = [r"\s+", r"\S+", r"\w+", r"\W+", r"\d+", r"\D", r"\h+", r"\H+",
            r"\bb", r"\Bc", r"[\s\d]+", r"[^\s\d]+", r"[\w]+", r"[^\w]+",
            r"[\S]", r"[a-z&&[^aeiou]]+", r"[^a-z&&[^aeiou]]+", r"[[a-c][x-z]]+",
            r"[^[a-c]\s]+", r"\p{N}{1,3}+", r"\p{N}{2}?", r"a{,2}", r"b{1,2}?",
            r"(?i:'s|'ll|'t)", r"(?i)a|b", r"(?m:a.c|b.c|\n.)", r".+", r"^.",
            r".$", r"\p{Han}+", r"\p{Hiragana}|\p{Katakana}+", r"\P{L}+",
            r"\p{^L}+", r"\p{Lu}\p{Ll}*", r"\u0061+", r"\x{61}", r"[\x{61}b]+",
            r"[\p{L}&&[^\p{Han}]]+", r"(?:ab|c)++", r"a*+", r"x?", r"(?=b)",
            r"(?<=a)b", r"(?<!a)b", r"(?>a+)b?", r"\v", r"\p{Alphabetic}+",
            r"[\h_]+", r"[\]\[()]", r"[-a]+", r"\t|\r?\n", r"\.", r"{", r"}",
            r"\s*[\r\n]+|\s+(?!\S)|\s+", r"\p{M}", r"\p{S}|\p{P}", r"\A.", r".\z"]

# in the shape of DeepSeek-V2's, which has a "$" that is every line's end
DEEPSEEK_V2 = [
    "[\r\n]", "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽΈ-ΊΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽ]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", "[一-龥ࠀ-一가-퟿]+"]

BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
             "Contiguous"]


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior,
            "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def pretokenizers():
    for p in PATTERNS:
        yield split(p)
    for b in BEHAVIORS:
        for invert in (False, True):
            yield split(r"\s|-|:", b, invert)
            yield split("a", b, invert, "String")
    for single in (False, True):
        yield {"type": "Digits", "individual_digits": single}
        yield {"type": "Metaspace", "replacement": "▁",
               "prepend_scheme": "first", "split": single}
    for scheme in ("always", "never"):
        yield {"type": "Metaspace", "replacement": "▁",
               "prepend_scheme": scheme, "split": True}
        yield sequence({"type": "WhitespaceSplit"},
                       {"type": "Metaspace", "replacement": "_",
                        "prepend_scheme": scheme, "split": False})
    yield {"type": "WhitespaceSplit"}
    yield {"type": "Whitespace"}
    for b in BEHAVIORS:
        yield {"type": "Punctuation", "behavior": b}
    yield sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                   split(r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\s+(?!\S)|\s+"))
    yield sequence(*[split(p) for p in DEEPSEEK_V2],
                   {"type": "Digits", "individual_digits": True})
    yield sequence({"type": "Digits", "individual_digits": True},
                   {"type": "Metaspace", "replacement": "▁",
                    "prepend_scheme": "first", "split": True})


def pieces(step):
    t = Tokenizer.from_str(json.dumps(document(pre_tokenizer=step)))
    p = t.pre_tokenizer
    return [[text, [s for s, _ in p.pre_tokenize_str(text)]] for text in TEXTS]


def document(**parts):
    vocab, merges = {}, []
    for c in ["<unk>"] + ["<0x%02X>" % i for i in range(256)] + list(
            "abcdexyz ▁_.,0123AE\n") + ["é", "日"]:
        vocab[c] = len(vocab)
    for pair in ["a b", "ab c", "▁ a", "b c", "▁ ▁", "a a", "aa a", "a é",
                 "_ a", "c d"]:
        merges.append(pair)
        vocab[pair.replace(" ", "")] = len(vocab)
    model = {"type": "BPE", "dropout": None, "unk_token": None,
             "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": merges}
    model.update(parts.pop("model", {}))
    doc = {"version": "1.0", "truncation": None, "padding": None,
           "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
           "post_processor": None, "decoder": {"type": "Fuse"}, "model": model}
    doc.update(parts)
    return doc


def added(content, at, special=False, **flags):
    token = {"id": at, "content": content, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False,
             "special": special}
    token.update(flags)
    return token


def template(*parts):
    names = {"<s>": [1], "</s>": [2, 3]}
    single = [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else
              {"SpecialToken": {"id": p, "type_id": 0}} for p in parts]
    return {"type": "TemplateProcessing", "single": single,
            "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {k: {"id": k, "ids": v, "tokens": [
                "<0x00>", "<0x01>"][:len(v)]} for k, v in names.items()}}


def documents():
    vocab = document()["model"]["vocab"]
    size = len(vocab)
    yield document()
    yield document(model={"unk_token": "<unk>"})
    yield document(model={"unk_token": "<unk>", "fuse_unk": True})
    yield document(model={"unk_token": "<unk>", "fuse_unk": True,
                          "byte_fallback": True})
    yield document(model={"byte_fallback": True, "ignore_merges": True})
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield document(normalizer={"type": form},
                       model={"byte_fallback": True})
    llama = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    decoder = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    for normalized in (False, True):
        yield document(
            normalizer=llama, decoder=decoder,
            model={"byte_fallback": True},
            post_processor=template("<s>", "A", "</s>"),
            added_tokens=[added("b c", size, normalized=normalized),
                          added("[x]", size + 1, True,
                                normalized=normalized)])
    yield document(normalizer={"type": "Replace", "pattern": {
        "Regex": r"\s+|b*"}, "content": "_"}, model={"byte_fallback": True})
    for flag in ("lstrip", "rstrip", "single_word"):
        for normalized in (False, True):
            tokens = [added("b", vocab["b"], True, normalized=normalized),
                      added("x", vocab["x"], normalized=normalized),
                      added("bbb", size, normalized=not normalized),
                      added("--", size + 1, normalized=normalized)]
            for t in tokens:
                t[flag] = True
            yield document(normalizer={"type": "NFKC"}, added_tokens=tokens,
                           model={"byte_fallback": True},
                           post_processor=template("A", "</s>"))
    yield document(
        post_processor={"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True,
             "trim_offsets": False, "use_regex": True},
            template("<s>", "A")]})
    yield document(
        pre_tokenizer={"type": "Metaspace", "replacement": "▁",
                       "prepend_scheme": "first", "split": True},
        decoder={"type": "Metaspace", "replacement": "▁",
                 "prepend_scheme": "first", "split": True},
        added_tokens=[added("<0x0A>", 11, True)],
        model={"byte_fallback": False})


def encoded(doc):
    t = Tokenizer.from_str(json.dumps(doc))
    out = []
    for text in TEXTS:
        plain = t.encode(text, add_special_tokens=False).ids
        around = t.encode(text, add_special_tokens=True).ids
        out.append([text, plain, around, t.decode(plain), t.decode(
            around, skip_special_tokens=False)])
    return out


def main():
    model = document()["model"]
    documented = [{"tokenizer": d, "cases": encoded(d)} for d in documents()]
    for d in documented:                # the same for all, written once
        del d["tokenizer"]["model"]["vocab"], d["tokenizer"]["model"]["merges"]
    result = {
        "vocab": model["vocab"],
        "merges": model["merges"],
        "pieces": [{"pre_tokenizer": s, "cases": pieces(s)}
                   for s in pretokenizers()],
        "ids": documented,
    }
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        json.dump(result, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
