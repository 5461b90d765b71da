#!/usr/bin/env python3
"""How good a demo model is: held-out success of each skill, loss, balance.

    eval.py ../../models/demo

Answers are greedy and come from transformers, from the saved weights in
float32; loss, balance and the MTP layer's guesses come from the trainer's own
implementation, after its logits were compared with transformers'."""

import argparse
import collections
import json
import pathlib
import re

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging

import model as M
import text
import train

SEED = 987654321


def prompt(t, system, turns):
    """The text up to the last answer, through the chat template."""
    m = [{"role": "system", "content": system}] if system else []
    for i, (u, a) in enumerate(turns):
        m.append({"role": "user", "content": u})
        if i + 1 < len(turns):
            m.append({"role": "assistant", "content": a})
    return t.apply_chat_template(m, add_generation_prompt=True,
                                 tokenize=False)


@torch.no_grad()
def answers(m, t, texts, batch=50):
    ids = [t(x, add_special_tokens=False).input_ids for x in texts]
    out = [None] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        n = max(len(ids[i]) for i in part)
        x = torch.tensor([[t.pad_token_id] * (n - len(ids[i])) + ids[i]
                          for i in part])
        mask = torch.tensor([[0] * (n - len(ids[i])) + [1] * len(ids[i])
                             for i in part])
        y = m.generate(x, attention_mask=mask, max_new_tokens=400,
                       do_sample=False)
        for i, row in zip(part, y[:, n:].tolist()):
            end = t.eos_token_id in row
            row = row[:row.index(t.eos_token_id)] if end else row
            out[i] = t.decode(row, skip_special_tokens=False), end
    return out


def known_words(gen):
    g, words = gen(5), set()
    for _ in range(4000):
        words.update(re.findall(r"[A-Za-z]+", g.story()[0]))
    return words


PAIR = re.compile(r"\b(%s) (%s)\b" % ("|".join(text.COLORS),
                                      "|".join(text.OBJECTS)))


def story_ok(a, must, words, most):
    """Ends, has what was asked for, only words of the generator's, at most
    so many names, and one thing that keeps its color."""
    said = re.findall(r"[A-Za-z]+", a)
    names = {w for w in said if w in text.NAMES}
    return (len(said) > 30 and all(m in said for m in must)
            and all(w in words for w in said) and 1 <= len(names) <= most
            and len(set(PAIR.findall(a))) == 1)


def skills(m, t, gen, n, show):
    words, g = known_words(gen), gen(SEED)
    kinds = [k for k in gen.KINDS if k != "c_repeat"]
    for kind in kinds + ["c_sentence", "c_words", "several turns"]:
        cs = []
        while len(cs) < (n // 2 if kind == "c_story" else n):
            c = g.chat(None if kind == "several turns" else kind)
            if kind == "several turns" and len(c["turns"]) < 2:
                continue
            cs.append(c)
        if kind == "c_sum":
            cs += [dict(g.c_sum(a, b), system=None) for a in range(21)
                   for b in range(21 - a)]
        got = answers(m, t, [prompt(t, c["system"], c["turns"]) for c in cs])
        good, bad = 0, []
        for c, (a, end) in zip(cs, got):
            ok = end and (story_ok(a, c["check"], words, gen.PEOPLE)
                          if c["skill"] == "story" else a == c["check"])
            good += ok
            if not ok:
                bad.append((c["turns"][-1][0], a))
        name = kind.removeprefix("c_")
        print(f"{name:14} {good:4}/{len(cs):<4} {good / len(cs):7.1%}",
              flush=True)
        for u, a in bad[:show]:
            print(f"    {u!r}\n      -> {a!r}")


@torch.no_grad()
def inside(m, hf, where, gen, steps):
    tk = Tokenizer.from_file(str(where / "tokenizer.json"))
    s = train.Stream(tk, gen(SEED + 1), 4096)
    main = mtp = seen = same = 0
    worst, loads = 0.0, collections.Counter()
    for k in range(steps):
        batch = s.step()
        a, b = train.losses(m, batch, True)
        for i, moe in enumerate(m.moes()):
            loads[i] = loads[i] + moe.load
        main, mtp = main + a.item(), mtp + b.item()
        ids, w, groups = batch
        h = m.hidden(ids, groups)
        d, keep = m.draft(h, ids, groups)
        nxt = m.head(h).argmax(-1)
        at = ((w[keep + 1] > 0)).nonzero()[:, 0]
        same += (m.head(d[at]).argmax(-1) == nxt[keep[at] + 1]).sum().item()
        seen += len(at)
        if k == 0:
            for start, docs, n in groups:
                x = ids[start:start + docs * n].view(docs, n)
                ours = m.head(h[start:start + docs * n]).view(docs, n, -1)
                worst = max(worst, ((hf(x, use_cache=False).logits - ours)
                                    .abs().max() / ours.abs().max()).item())
    print(f"largest difference of logits to transformers: {worst:.1e}")
    print(f"validation loss {main / steps:.4f} a token of the answers, "
          f"MTP {mtp / steps:.4f}; the MTP layer's guess is the model's own "
          f"next choice {same / seen:.1%} of the time")
    for i in sorted(loads):
        x = loads[i] / loads[i].mean()
        name = "MTP" if i == len(loads) - 1 else f"layer {i + 1}"
        print(f"expert load, {name}: least {x.min():.2f}, most {x.max():.2f}"
              f" of the mean")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model", type=pathlib.Path)
    a.add_argument("-n", type=int, default=200, help="prompts a skill")
    a.add_argument("--show", type=int, default=0, help="failures to show")
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    logging.set_verbosity_error()
    hf = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    t = AutoTokenizer.from_pretrained(a.model)
    c = json.loads((a.model / "config.json").read_text())
    m = M.Model(c)
    tensors = {}
    for f in sorted(a.model.glob("model*.safetensors")):
        tensors.update(load_file(f))
    M.restore(m, tensors)
    size = next(k for k, v in M.SIZES.items()
                if v["hidden_size"] == c["hidden_size"])
    inside(m, hf, a.model, train.TEXT[size], 10)
    skills(hf, t, train.TEXT[size], a.n, a.show)


if __name__ == "__main__":
    main()
