#!/usr/bin/env python3
"""Train the demo model.

    train.py --size small --out ../../models/demo
    train.py --size ship --device cuda --out /tmp/ship

The checkpoint is written with --save, from time to time, so that a run can be
looked at (and, with --resume, continued)."""

import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

import model as M
import rich
import text
import tok

TEXT = {"small": text.Gen, "ship": rich.Gen}

SHARD = 12 << 20


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al., 2024), for matrices and
    stacks of matrices."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            same = {}
            for p in group["params"]:
                if p.grad is not None:
                    same.setdefault(p.shape[-2:], []).append(p)
            for ps in same.values():
                us = []
                for p in ps:
                    s = self.state[p]
                    if not s:
                        s["m"] = torch.zeros_like(p)
                    s["m"].lerp_(p.grad, 0.05)
                    u = p.grad.lerp(s["m"], 0.95)
                    us.append(u.view(-1, *p.shape[-2:]))
                u = self.orthogonal(torch.cat(us))
                rows, cols = u.shape[-2:]
                lr = group["lr"] * max(1, rows / cols) ** 0.5
                at = 0
                for p in ps:
                    n = p.numel() // (rows * cols)
                    p.mul_(1 - group["lr"] * 0.01)
                    p.add_(u[at:at + n].view_as(p), alpha=-lr)
                    at += n

    def orthogonal(self, g):
        flip = g.shape[-2] > g.shape[-1]
        x = g.mT if flip else g
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.mT if flip else x


class Stream:
    """Endless steps of about `tokens` tokens: a pool of documents is sorted
    by length and cut into groups, and a step takes groups of all lengths."""

    def __init__(self, tk, gen, tokens, parts=6, longest=512):
        self.gen, self.tk, self.ids = gen, tk, tk.get_vocab()
        self.tokens, self.parts, self.longest = tokens, parts, longest
        self.ready = []

    def doc(self):
        if self.gen.r.random() < 0.06:
            i = self.tk.encode(self.gen.plain(), add_special_tokens=False).ids
            i = [self.ids[tok.BOS]] + i + [self.ids[tok.EOS]]
            return i, [0.0] + [0.4] * (len(i) - 1)
        i, w = tok.encode_chat(self.tk, self.gen.chat(), self.ids)
        # a short answer has few tokens, and all that matters is in them
        f = (24 / sum(w)) ** 0.5
        return i, [x * f for x in w]

    def refill(self):
        per = self.tokens // self.parts
        docs, total = [], 0
        while total < self.tokens * 12:
            d = self.doc()
            if len(d[0]) <= self.longest:
                docs.append(d)
                total += len(d[0])
        docs.sort(key=lambda d: len(d[0]))
        groups, now, size = [], [], 0
        for d in docs:
            now.append(d)
            size += len(d[0])
            if size >= per:
                groups.append(now)
                now, size = [], 0
        steps = len(groups) // self.parts
        # part i of every step comes from the i-th sixth of the lengths
        cols = [groups[i * steps:(i + 1) * steps] for i in range(self.parts)]
        for c in cols:
            self.gen.r.shuffle(c)
        self.ready = [list(s) for s in zip(*cols)]

    def step(self, device="cpu"):
        if not self.ready:
            self.refill()
        ids, weights, groups, at = [], [], [], 0
        for docs in self.ready.pop():
            n = max(len(d[0]) for d in docs)
            for i, w in docs:
                ids += i + [self.ids[tok.PAD]] * (n - len(i))
                weights += w + [0.0] * (n - len(w))
            groups.append((at, len(docs), n))
            at += len(docs) * n
        return (torch.tensor(ids, device=device),
                torch.tensor(weights, device=device), groups)


def mean_loss(logits, wanted, w):
    each = F.cross_entropy(logits.float(), wanted, reduction="none")
    return (each * w).sum() / w.sum()


def losses(m, batch, mtp, main_fixed=False):
    """Mean loss of the answers' tokens, of the model and of its MTP layer,
    each token with its weight."""
    ids, w, groups = batch
    with torch.set_grad_enabled(torch.is_grad_enabled() and not main_fixed):
        h = m.hidden(ids, groups)
        at = (w[1:] > 0).nonzero()[:, 0]   # a document's first weight is 0
        main = mean_loss(m.head(h[at]), ids[at + 1], w[at + 1])
    if not mtp:
        return main, None
    d, keep = m.draft(h, ids, groups)
    two = torch.cat([w, w.new_zeros(2)])[keep + 2]
    ends = torch.zeros_like(w, dtype=torch.bool)
    for start, docs, n in groups:
        ends[torch.arange(start, start + docs * n, n, device=w.device)] = True
    ends = torch.cat([ends, ends.new_ones(2)])[keep + 2]
    ok = ((two > 0) & ~ends).nonzero()[:, 0]
    logits = F.linear(d[ok], m.head_weight().detach())
    return main, mean_loss(logits, ids[keep[ok] + 2], two[ok])


def write(m, tk, size, out):
    out = pathlib.Path(out)
    tok.save(tk, out, m.c["max_position_embeddings"])
    c = m.c
    (out / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    g = {"_from_model_config": False, "bos_token_id": c["bos_token_id"],
         "eos_token_id": c["eos_token_id"],
         "pad_token_id": c["pad_token_id"], "do_sample": True,
         "temperature": 0.6, "top_p": 0.95}
    (out / "generation_config.json").write_text(json.dumps(g, indent=2)
                                                + "\n")
    for f in out.glob("model*.safetensors*"):
        f.unlink()
    w, shards, now, n = M.export(m), [], {}, 0
    for k in sorted(w):
        b = w[k].numel() * w[k].element_size()
        if now and n + b > SHARD:
            shards.append(now)
            now, n = {}, 0
        now[k] = w[k]
        n += b
    shards.append(now)
    index = {"metadata": {"total_size": sum(
        v.numel() * v.element_size() for v in w.values())}, "weight_map": {}}
    for i, s in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(s, out / name, metadata={"format": "pt"})
        (out / name).chmod(0o644)
        index["weight_map"].update({k: name for k in s})
    (out / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1, sort_keys=True) + "\n")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--size", choices=sorted(M.SIZES), default="small")
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=3000)
    a.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--muon", type=float, default=0.02)
    a.add_argument("--adam", type=float, default=0.004)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--device", default="cpu")
    a.add_argument("--bf16", action="store_true", help="autocast")
    a.add_argument("--save", type=int, default=250, help="steps")
    a.add_argument("--mtp-from", type=float, default=0.7)
    a.add_argument("--only-mtp", action="store_true",
                   help="the rest stays as it is")
    a.add_argument("--cool", type=float, default=0.5,
                   help="the part of the run in which the rate falls")
    a.add_argument("--resume")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    if a.resume:
        tk = Tokenizer.from_file(a.resume.removesuffix(".pt")
                                 + "/tokenizer.json")
    else:
        tk = tok.train(M.SIZES[a.size]["vocab_size"], TEXT[a.size])
    ids = tk.get_vocab()
    assert len(ids) == M.SIZES[a.size]["vocab_size"], len(ids)
    c = M.hf_config(a.size, dict(bos_token_id=ids[tok.BOS],
                                 eos_token_id=ids[tok.EOS],
                                 pad_token_id=ids[tok.PAD]))
    m = M.Model(c).to(a.device)
    mats = [p for n, p in m.layers.named_parameters()
            if p.ndim >= 2 and "gate.weight" not in n]
    mats += [p for n, p in m.mtp.named_parameters()
             if p.ndim >= 2 and "gate.weight" not in n]
    done = {id(p) for p in mats}
    rest = [p for p in m.parameters() if id(p) not in done]
    opts = [Muon(mats, a.muon),
            torch.optim.AdamW(rest, a.adam, betas=(0.9, 0.95),
                              weight_decay=0.0)]
    print(f"{sum(p.numel() for p in m.parameters()) / 1e6:.2f} M parameters",
          flush=True)
    first = 0
    if a.resume:
        s = torch.load(a.resume, map_location=a.device)
        m.load_state_dict(s["model"])
        for o, v in zip(opts, s["opts"]):
            o.load_state_dict(v)
        first = s["step"]
    data = Stream(tk, TEXT[a.size](a.seed * 1000003 + first), a.tokens)
    t0, seen, mean = time.time(), 0, {}
    for step in range(first, a.steps):
        mtp = a.only_mtp or step >= a.mtp_from * a.steps
        rate = min(1, (step + 1) / 50,
                   (a.steps - step) / (a.steps * a.cool))
        for o, b in zip(opts, (a.muon, a.adam)):
            o.param_groups[0]["lr"] = b * max(rate, 0.01)
        batch = data.step(a.device)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.bf16):
            main_loss, mtp_loss = losses(m, batch, mtp, a.only_mtp)
        total = main_loss if mtp_loss is None else main_loss + 0.5 * mtp_loss
        for o in opts:
            o.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for o in opts:
            o.step()
        with torch.no_grad():
            for moe in m.moes():
                if not (mtp if moe is m.mtp.mlp else not a.only_mtp):
                    continue
                moe.bias += 0.004 * max(rate, 0.05) * torch.sign(
                    moe.load.mean() - moe.load)
        seen += batch[0].numel()
        for k, v in (("loss", main_loss), ("mtp", mtp_loss)):
            if v is not None:
                mean[k] = mean.get(k, v.item()) * 0.95 + v.item() * 0.05
        if (step + 1) % 25 == 0:
            loads = [x.mlp.load for x in m.layers[1:]]
            worst = max((x.max() / x.mean()).item() for x in loads)
            print(f"step {step + 1} "
                  + " ".join(f"{k} {v:.4f}" for k, v in mean.items())
                  + f" maxload {worst:.2f} {seen / (time.time() - t0):.0f} "
                  f"tok/s {time.time() - t0:.0f} s", flush=True)
        if (step + 1) % a.save == 0 or step + 1 == a.steps:
            write(m, tk, a.size, out)
            torch.save({"model": m.state_dict(), "step": step + 1,
                        "opts": [o.state_dict() for o in opts]},
                       out.parent / (out.name + ".pt"))


if __name__ == "__main__":
    main()
