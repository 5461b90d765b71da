"""Writes what the reference library makes of the lines.

    python3 tools/tokenizers/goldens.py NAME=DIR...

DIR holds a tokenizer.json.  For each, t/golden/tokenizer/ gets

  NAME.ids   for every record of lines.bin: a count and the ids, LEB128 each;
             added tokens recognised, none added around the text
  NAME.text  200 random id sequences: a count and the ids, then the text that
             decode() makes of them with special tokens, then without, each a
             length and UTF-8

Needs tokenizers (PyPI), the version that is printed and kept in README.md.
"""

import os
import random
import sys

import tokenizers

from lines import leb128

GOLDEN = os.path.join(os.path.dirname(__file__), "../../t/golden/tokenizer")


def records(path):
    data = open(path, "rb").read()
    at = 0
    while at < len(data):
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                break
        yield data[at:at + n]
        at += n


def write_ids(t, path):
    total = 0
    with open(path, "wb") as f:
        for line in records(os.path.join(GOLDEN, "lines.bin")):
            text = line.decode("utf-8", "replace")
            ids = t.encode(text, add_special_tokens=False).ids
            total += len(ids)
            f.write(leb128(len(ids)) + b"".join(map(leb128, ids)))
    return total


def byte_runs_are_valid(t, ids):
    """Whether no run of "<0xE2>" tokens is invalid UTF-8.

    The reference takes a character of such a run back when a later byte of
    the run is invalid, which nothing that writes as it goes can do.
    """
    run = b""
    for i in list(ids) + [None]:
        piece = "" if i is None else t.id_to_token(i) or ""
        if len(piece) == 6 and piece.startswith("<0x"):
            run += bytes([int(piece[3:5], 16)])
            continue
        try:
            run.decode("utf-8")
        except UnicodeDecodeError:
            if len(run) > 1:
                return False
        run = b""
    return True


def write_text(t, path):
    r = random.Random(7)
    size = t.get_vocab_size()
    small = list(range(min(300, size)))
    added = list(t.get_added_tokens_decoder())
    special = {i for i, a in t.get_added_tokens_decoder().items() if a.special}
    with open(path, "wb") as f:
        done = 0
        while done < 200:
            ids = [r.choice([r.randrange(size), r.choice(small),
                             r.choice(small), r.choice(added)]
                            if added else [r.randrange(size)])
                   for _ in range(r.randint(1, 16))]
            kept = [i for i in ids if i not in special]
            if not (byte_runs_are_valid(t, ids)
                    and byte_runs_are_valid(t, kept)):
                continue
            done += 1
            f.write(leb128(len(ids)) + b"".join(map(leb128, ids)))
            for skip in (False, True):
                text = t.decode(ids, skip_special_tokens=skip).encode()
                f.write(leb128(len(text)) + text)


def main():
    print("tokenizers", tokenizers.__version__)
    for arg in sys.argv[1:]:
        name, path = arg.split("=", 1)
        t = tokenizers.Tokenizer.from_file(os.path.join(path,
                                                        "tokenizer.json"))
        t.no_truncation()
        t.no_padding()
        total = write_ids(t, os.path.join(GOLDEN, name + ".ids"))
        write_text(t, os.path.join(GOLDEN, name + ".text"))
        print(name, total, "ids")


if __name__ == "__main__":
    main()
