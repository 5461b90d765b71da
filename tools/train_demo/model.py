"""DeepSeek-V3's architecture, written for fast training of small models.

Tokens of a step lie flat in one [N, hidden] tensor; only attention looks at
the groups (start, documents, length) they came from, so that documents of
one length are attended together and nothing is padded.  The numbers are
those of transformers' DeepseekV3ForCausalLM.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {
    "small": dict(
        vocab_size=2048, hidden_size=128, intermediate_size=256,
        moe_intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, q_lora_rank=64, kv_lora_rank=64,
        qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
        n_routed_experts=16, num_experts_per_tok=2, n_shared_experts=1,
        n_group=4, topk_group=2, routed_scaling_factor=1.5,
        max_position_embeddings=2048),
    "ship": dict(
        vocab_size=4096, hidden_size=256, intermediate_size=512,
        moe_intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=8, q_lora_rank=96, kv_lora_rank=64,
        qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
        n_routed_experts=32, num_experts_per_tok=6, n_shared_experts=1,
        n_group=8, topk_group=4, routed_scaling_factor=2.5,
        max_position_embeddings=4096),
}


def hf_config(size, ids):
    c = dict(architectures=["DeepseekV3ForCausalLM"],
             model_type="deepseek_v3", **SIZES[size])
    c.update(num_key_value_heads=c["num_attention_heads"],
             first_k_dense_replace=1, moe_layer_freq=1,
             scoring_func="sigmoid", topk_method="noaux_tc",
             norm_topk_prob=True, hidden_act="silu", attention_bias=False,
             attention_dropout=0.0, rms_norm_eps=1e-6, rope_theta=100.0,
             rope_scaling=None, rope_interleave=True, initializer_range=0.02,
             num_nextn_predict_layers=1, tie_word_embeddings=False,
             use_cache=True, torch_dtype="bfloat16", **ids)
    return c


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


def linear(n_in, n_out):
    m = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(m.weight, std=n_in ** -0.5 * 0.7)
    return m


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, n = c["hidden_size"], c["num_attention_heads"]
        self.n, self.nope = n, c["qk_nope_head_dim"]
        self.rope, self.v = c["qk_rope_head_dim"], c["v_head_dim"]
        self.rank = c["kv_lora_rank"]
        self.q_a_proj = linear(h, c["q_lora_rank"])
        self.q_a_layernorm = Norm(c["q_lora_rank"])
        self.q_b_proj = linear(c["q_lora_rank"], n * (self.nope + self.rope))
        self.kv_a_proj_with_mqa = linear(h, self.rank + self.rope)
        self.kv_a_layernorm = Norm(self.rank)
        self.kv_b_proj = linear(self.rank, n * (self.nope + self.v))
        self.o_proj = linear(n * self.v, h)
        nn.init.zeros_(self.o_proj.weight)

    def turn(self, x, cos, sin):
        """Interleaved pairs in, halves out, as the reference does."""
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, x, pos, groups):
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.view(-1, self.n, self.nope + self.rope)
        kv, kr = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(kv))
        k, v = kv.view(-1, self.n, self.nope + self.v).split(
            [self.nope, self.v], -1)
        cos, sin = pos
        q = torch.cat([q[..., :self.nope], self.turn(
            q[..., self.nope:], cos[:, None], sin[:, None])], -1)
        kr = self.turn(kr, cos, sin)[:, None].expand(-1, self.n, -1)
        k = torch.cat([k, kr], -1)
        out = []
        for start, docs, length in groups:
            qkv = [t[start:start + docs * length].view(
                docs, length, self.n, -1).transpose(1, 2) for t in (q, k, v)]
            o = F.scaled_dot_product_attention(*qkv, is_causal=True)
            out.append(o.transpose(1, 2).reshape(docs * length, -1))
        return self.o_proj(torch.cat(out))


class Mlp(nn.Module):
    def __init__(self, h, n):
        super().__init__()
        self.gate_proj, self.up_proj = linear(h, n), linear(h, n)
        self.down_proj = linear(n, h)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, n, e = (c["hidden_size"], c["moe_intermediate_size"],
                   c["n_routed_experts"])
        self.c = c
        self.gate = linear(h, e)
        self.register_buffer("bias", torch.zeros(e))
        self.register_buffer("load", torch.zeros(e), persistent=False)
        self.gate_up = nn.Parameter(torch.randn(e, 2 * n, h) * h ** -0.5 * .7)
        self.down = nn.Parameter(torch.zeros(e, h, n))
        self.shared_experts = Mlp(h, n * c["n_shared_experts"])

    def route(self, x):
        c = self.c
        score = F.linear(x.float(), self.gate.weight.float()).sigmoid()
        with torch.no_grad():
            choice = score + self.bias
            g = choice.view(-1, c["n_group"],
                            c["n_routed_experts"] // c["n_group"])
            top = g.topk(2, -1)[0].sum(-1).topk(c["topk_group"], -1)[1]
            mask = torch.zeros(g.shape[:2], dtype=torch.bool,
                               device=x.device).scatter_(1, top, True)
            choice = g.masked_fill(~mask[..., None], -1e9).flatten(1)
            idx = choice.topk(c["num_experts_per_tok"], -1)[1]
        w = score.gather(1, idx)
        w = w / (w.sum(-1, keepdim=True) + 1e-20)
        return idx, w * c["routed_scaling_factor"]

    def forward(self, x):
        idx, w = self.route(x)
        k = idx.shape[1]
        flat = idx.flatten()
        order = flat.argsort(stable=True)
        count = torch.bincount(flat, minlength=self.bias.numel())
        self.load = count.detach().float()
        rows = x[order // k].split(count.tolist())
        out = []
        for r, up, down in zip(rows, self.gate_up.unbind(0),
                               self.down.unbind(0)):
            a, b = F.linear(r, up).chunk(2, -1)
            out.append(F.linear(F.silu(a) * b, down))
        out = torch.cat(out) * w.flatten()[order][:, None].to(x.dtype)
        y = torch.zeros_like(x).index_add(0, order // k, out.to(x.dtype))
        return y + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, c, moe):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"])
        self.mlp = Moe(c) if moe else Mlp(c["hidden_size"],
                                          c["intermediate_size"])

    def forward(self, x, pos, groups):
        x = x + self.self_attn(self.input_layernorm(x), pos, groups)
        return x + self.mlp(self.post_attention_layernorm(x))


class Mtp(Layer):
    """Predicts the token after the next, from the final hidden state and the
    next token's embedding; head and embedding are the main model's."""

    def __init__(self, c):
        super().__init__(c, True)
        h = c["hidden_size"]
        self.enorm, self.hnorm = Norm(h), Norm(h)
        self.eh_proj = linear(2 * h, h)
        self.head_norm = Norm(h)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embed.weight, std=0.7)
        self.layers = nn.ModuleList(
            Layer(c, i >= c["first_k_dense_replace"])
            for i in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"])
        # one matrix while training, so that any token can be copied soon;
        # two in the checkpoint, the head's with its scale multiplied in
        self.head_scale = nn.Parameter(torch.tensor(0.02))
        self.mtp = Mtp(c)
        d = c["qk_rope_head_dim"]
        inv = c["rope_theta"] ** -(torch.arange(0, d, 2).float() / d)
        t = torch.arange(c["max_position_embeddings"]).float()[:, None] * inv
        self.register_buffer("cos", t.cos(), persistent=False)
        self.register_buffer("sin", t.sin(), persistent=False)

    def head_weight(self):
        return self.embed.weight * self.head_scale

    def head(self, h):
        return F.linear(h, self.head_weight())

    def positions(self, groups):
        p = torch.cat([torch.arange(n, device=self.cos.device).repeat(docs)
                       for _, docs, n in groups])
        return self.cos[p], self.sin[p]

    def hidden(self, ids, groups):
        x, pos = self.embed(ids), self.positions(groups)
        for layer in self.layers:
            x = layer(x, pos, groups)
        return self.norm(x)

    def draft(self, h, ids, groups):
        """MTP's hidden states: one row for each but the last token of every
        document.  Trains nothing but itself."""
        m, keep, shorter, at = self.mtp, [], [], 0
        for start, docs, n in groups:
            i = torch.arange(start, start + docs * n, device=ids.device)
            keep.append(i.view(docs, n)[:, :-1].flatten())
            shorter.append((at, docs, n - 1))
            at += docs * (n - 1)
        keep = torch.cat(keep)
        e = self.embed(ids[keep + 1]).detach()
        x = m.eh_proj(torch.cat([m.enorm(e), m.hnorm(h[keep].detach())], -1))
        x = m(x, self.positions(shorter), shorter)
        return m.head_norm(x), keep

    def moes(self):
        return [m for m in self.modules() if isinstance(m, Moe)]


def export(model):
    """The weights under the names of DeepSeek-V3's checkpoints."""
    out, c = {}, model.c
    put = lambda k, v: out.__setitem__(
        k, v.detach().float().cpu().to(torch.bfloat16).contiguous())
    put("model.embed_tokens.weight", model.embed.weight)
    put("model.norm.weight", model.norm.weight)
    put("lm_head.weight", model.head_weight())
    n = c["num_hidden_layers"]
    for i, layer in enumerate(list(model.layers) + [model.mtp]):
        base = f"model.layers.{i}."
        for k, v in layer.named_parameters():
            if k.startswith("head_norm"):
                put(base + "shared_head.norm.weight", v)
            elif k == "mlp.gate_up" or k == "mlp.down":
                for j, w in enumerate(v):
                    e = f"{base}mlp.experts.{j}."
                    if k == "mlp.down":
                        put(e + "down_proj.weight", w)
                        continue
                    gate, up = w.chunk(2, 0)
                    put(e + "gate_proj.weight", gate)
                    put(e + "up_proj.weight", up)
            else:
                put(base + k, v)
        if isinstance(layer.mlp, Moe):
            out[base + "mlp.gate.e_score_correction_bias"] = (
                layer.mlp.bias.float().cpu().clone())
    put(f"model.layers.{n}.embed_tokens.weight", model.embed.weight)
    put(f"model.layers.{n}.shared_head.head.weight", model.head_weight())
    return out


def restore(model, tensors):
    """The reverse of export()."""
    c, left = model.c, dict(tensors)
    put = lambda p, k: p.data.copy_(left.pop(k).float())
    put(model.embed.weight, "model.embed_tokens.weight")
    put(model.norm.weight, "model.norm.weight")
    head = left.pop("lm_head.weight").float()
    model.head = lambda h: F.linear(h, head)
    model.head_weight = lambda: head
    n = c["num_hidden_layers"]
    for i, layer in enumerate(list(model.layers) + [model.mtp]):
        base = f"model.layers.{i}."
        for k, v in layer.named_parameters():
            if k.startswith("head_norm"):
                put(v, base + "shared_head.norm.weight")
            elif k == "mlp.down":
                for j in range(len(v)):
                    put(v[j], f"{base}mlp.experts.{j}.down_proj.weight")
            elif k == "mlp.gate_up":
                half = v.shape[1] // 2
                for j in range(len(v)):
                    e = f"{base}mlp.experts.{j}."
                    put(v[j, :half], e + "gate_proj.weight")
                    put(v[j, half:], e + "up_proj.weight")
            else:
                put(v, base + k)
        if isinstance(layer.mlp, Moe):
            put(layer.mlp.bias, base + "mlp.gate.e_score_correction_bias")
    for k in ("embed_tokens.weight", "shared_head.head.weight"):
        left.pop(f"model.layers.{n}.{k}")
    if left:
        raise ValueError(f"tensors left over: {sorted(left)[:5]}")
