"""Prints the table of engine/text/onig_young.c.

    python3.11 tools/tokenizers/young.py

The characters that the reference's regular expressions know and PCRE2 10.42
(Unicode 14, as Python 3.11) does not, each range with a stand-in: a character
of Unicode 14 with the same general category and length in UTF-8.
"""

import unicodedata

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po "
              "Sm Sc Sk So Zs Zl Zp Cf").split()


def members(pattern, text):
    others = set()
    split = Split(Regex(pattern), "removed")
    for piece, _ in split.pre_tokenize_str(text):
        others.update(piece)
    return set(text) - others


def stand_in(category, cp):
    """The nearest one, which is most often in the same explicit ranges."""
    for distance in range(1, 0x110000):
        for c in (cp - distance, cp + distance):
            if 0 <= c < 0x110000 and not 0xD800 <= c < 0xE000 and \
                    unicodedata.category(chr(c)) == category and \
                    len(chr(c).encode()) == len(chr(cp).encode()):
                return c
    raise SystemExit("no stand-in for U+%04X" % cp)


def main():
    assert unicodedata.unidata_version == "14.0.0"
    young = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000
             and unicodedata.category(chr(c)) == "Cn"]
    text = "".join(map(chr, young))
    kinds = {}
    for category in CATEGORIES:
        for c in members(r"\p{%s}" % category, text):
            kinds[ord(c)] = category
    ranges = []
    for c in sorted(kinds):
        if ranges and ranges[-1][1] == c - 1 and kinds[c] == kinds[c - 1]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, stand_in(kinds[c], c)])
    for r in ranges:
        print("    { 0x%04X, 0x%04X, 0x%04X }," % tuple(r))


if __name__ == "__main__":
    main()
