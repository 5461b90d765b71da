#!/usr/bin/env python3
"""Text of the demo model's kind that it was not trained on, for
"moe-engine compare": stories and conversations of a seed that no training
run has.

    heldout.py [count] > heldout.txt"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "../train_demo"))

import rich  # noqa: E402
from tok import ASSISTANT, BOS, EOS, USER  # noqa: E402

SEED = 987654321


def chat(gen):
    c = gen.chat()
    out = c["system"] or ""
    for user, answer in c["turns"]:
        out += USER + user + ASSISTANT + answer + EOS
    return BOS + out


def main():
    gen = rich.Gen(SEED)
    for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
        sys.stdout.write(BOS + gen.plain() + EOS if i % 2 else chat(gen))


main()
