#!/usr/bin/env python3
"""GGUF files for the C tests, written with the gguf package.

    make_gguf.py                        # t/golden/gguf
    make_gguf.py convert DIR FILE [--type bf16] [--old]

The first writes what the tests read: small models, each as a directory and as
a file, and blocks of every type with the values that gguf.quants gives them.
The second converts a model directory of one of the families as llama.cpp's
converter does, types f32, f16, bf16, q8_0, q4_0, mxfp4; --old leaves kv_b
whole, as it did until 2025.
"""

import argparse
import hashlib
import json
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "../../t/golden/gguf"

ARCH = {"deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
        "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
        "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
        "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
        "olmoe": gguf.MODEL_ARCH.OLMOE,
        "mixtral": gguf.MODEL_ARCH.LLAMA,
        "gpt_oss": gguf.MODEL_ARCH.GPT_OSS}



# ---- metadata ----


def rope(w, c):
    w.add_rope_freq_base(c["rope_theta"])
    s = c.get("rope_scaling")
    if not s:
        return
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(s["factor"])
    w.add_rope_scaling_orig_ctx_len(s["original_max_position_embeddings"])
    if "mscale_all_dim" in s:
        assert s["mscale"] == s["mscale_all_dim"], "a file cannot say this"
        w.add_rope_scaling_yarn_log_mul(0.1 * s["mscale_all_dim"])


def metadata(w, c, old):
    kind = c["model_type"]
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_head_count(c["num_attention_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_vocab_size(c["vocab_size"])
    w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_expert_count(c.get("n_routed_experts") or c.get("num_experts")
                       or c["num_local_experts"])
    rope(w, c)
    if kind.startswith("deepseek"):
        deepseek(w, c, old)
        return
    w.add_head_count_kv(c["num_key_value_heads"])
    if c.get("head_dim"):
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])
    if c.get("moe_intermediate_size"):
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(
            c["shared_expert_intermediate_size"])
    if kind == "gpt_oss":
        w.add_sliding_window(c["sliding_window"])
        w.add_expert_feed_forward_length(c["intermediate_size"])
    if c.get("clip_qkv"):
        w.add_clamp_kqv(c["clip_qkv"])
    # llama.cpp goes by the architecture; say so where a test differs
    if "norm_topk_prob" in c and c["norm_topk_prob"] != (kind == "qwen3_moe"):
        w.add_expert_weights_norm(c["norm_topk_prob"])


def deepseek(w, c, old):
    rank, rot = c["kv_lora_rank"], c["qk_rope_head_dim"]
    qk, v = c["qk_nope_head_dim"] + rot, c["v_head_dim"]
    if c["q_lora_rank"]:
        w.add_q_lora_rank(c["q_lora_rank"])
    w.add_kv_lora_rank(rank)
    w.add_rope_dimension_count(rot)
    if old:
        w.add_head_count_kv(c["num_attention_heads"])
        w.add_key_length(qk)
        w.add_value_length(v)
    else:
        w.add_head_count_kv(1)
        w.add_key_length(rank + rot)
        w.add_value_length(rank)
        w.add_key_length_mla(qk)
        w.add_value_length_mla(v)
    w.add_leading_dense_block_count(c["first_k_dense_replace"])
    w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    w.add_expert_shared_count(c["n_shared_experts"])
    w.add_expert_weights_scale(c["routed_scaling_factor"])
    w.add_expert_weights_norm(c["norm_topk_prob"])
    w.add_expert_gating_func(
        gguf.ExpertGatingFuncType.SIGMOID if c["scoring_func"] == "sigmoid"
        else gguf.ExpertGatingFuncType.SOFTMAX)
    if c["topk_method"] != "greedy":
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])


# ---- vocabulary ----


def vocabulary(w, where, c):
    """tokenizer.json of a byte-level model; the demo's splitting is
    DeepSeek-V3's."""
    path = where / "tokenizer.json"
    if not path.exists():
        w.add_bos_token_id(c["bos_token_id"])
        w.add_eos_token_id(c["eos_token_id"])
        return
    t = json.loads(path.read_text())
    config = json.loads((where / "tokenizer_config.json").read_text())
    added = {a["content"]: a for a in t["added_tokens"]}
    n = c["vocab_size"]
    tokens = [f"[PAD{i}]" for i in range(n)]
    types = [gguf.TokenType.UNUSED] * n
    for s, i in t["model"]["vocab"].items():
        tokens[i], types[i] = s, gguf.TokenType.NORMAL
    for s, a in added.items():
        tokens[a["id"]] = s
        types[a["id"]] = (gguf.TokenType.CONTROL if a["special"]
                          else gguf.TokenType.USER_DEFINED)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("deepseek-v3")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m)
                        for m in t["model"]["merges"]])
    w.add_bos_token_id(c["bos_token_id"])
    w.add_eos_token_id(c["eos_token_id"])
    w.add_add_bos_token(config["add_bos_token"])
    template = where / "chat_template.jinja"
    if template.exists():
        w.add_chat_template(template.read_text())


# ---- tensors ----


def permute(w, heads):
    """q and k of a llama: (i, i + dim / 2) become neighbours."""
    return (w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
            .swapaxes(1, 2).reshape(w.shape))


def gpt_oss_experts(name, x):
    """Gate and up apart, outputs before inputs."""
    bias = name.endswith("_bias")
    x = x if bias else x.transpose(1, 2)
    name = name.removesuffix("_bias") + (".bias" if bias else ".weight")
    if "gate_up_proj" not in name:
        return {name: x}
    return {name.replace("gate_up_proj", "gate_proj"): x[:, 0::2],
            name.replace("gate_up_proj", "up_proj"): x[:, 1::2]}


def rearranged(t, c, old):
    """The checkpoint's tensors as the converter names and shapes them."""
    kind, out, experts = c["model_type"], {}, {}
    for name, x in t.items():
        part = name.split(".")
        if len(part) > 2 and part[2].isdigit() and (
                int(part[2]) >= c["num_hidden_layers"]):
            continue
        if kind == "gpt_oss" and ".experts." in name:
            out.update(gpt_oss_experts(name, x))
            continue
        if name.endswith(".sinks"):
            out[name + ".weight"] = x
            continue
        if ".experts." in name:
            i = part.index("experts")
            key = (".".join(part[:i]), part[i + 2])
            experts.setdefault(key, {})[int(part[i + 1])] = x
            continue
        if kind == "mixtral" and ".q_proj." in name:
            x = permute(x, c["num_attention_heads"])
        if kind == "mixtral" and ".k_proj." in name:
            x = permute(x, c["num_key_value_heads"])
        if ".kv_b_proj." in name and not old:
            x = x.reshape(c["num_attention_heads"], -1, c["kv_lora_rank"])
            k, v = x.split([c["qk_nope_head_dim"], c["v_head_dim"]], 1)
            out[name.replace("kv_b_proj", "k_b_proj")] = k.transpose(1, 2)
            out[name.replace("kv_b_proj", "v_b_proj")] = v
            continue
        out[name.replace("e_score_correction_bias",
                         "e_score_correction.bias")] = x
    for (prefix, word), parts in experts.items():
        layer = prefix.split(".")[2]
        merged = (f"layers.{layer}.feed_forward.experts.{word}.weight"
                  if kind == "mixtral" else
                  f"model.layers.{layer}.mlp.experts.{word}.weight")
        out[merged] = torch.stack([parts[e] for e in range(len(parts))])
    return out


def type_of(name, x, want):
    if (x.ndim == 1 or "ffn_gate_inp" in name or "_norm" in name
            or name.endswith(".bias")):
        return T.F32
    block = gguf.GGML_QUANT_SIZES[want][0]
    return want if x.shape[-1] % block == 0 else T.F16


def random_blocks(kind, shape, rng):
    """Blocks that stand for values of about 1 / sqrt(width)."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    n = int(np.prod(shape)) // block
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    d = (shape[-1] ** -0.5 * rng.uniform(0.5, 1, n)).astype(np.float32)

    def half(at, values):
        raw[:, at:at + 2] = values.astype(np.float16).view(
            np.uint8).reshape(n, 2)

    if kind in (T.Q4_K, T.Q5_K):
        q = 15 if kind == T.Q4_K else 31
        half(0, d / 32 / q)
        half(2, d / 64)
    elif kind == T.Q6_K:
        half(size - 2, d / 64 / 32)
    elif kind == T.MXFP4:
        raw[:, 0] = rng.integers(120, 124, n)
    elif kind in (T.Q4_0, T.Q8_0):
        half(0, d / (8 if kind == T.Q4_0 else 128))
    else:
        raise ValueError(kind)
    return raw.reshape(*shape[:-1], -1)


def put(w, name, x, want):
    kind = type_of(name, x, want)
    x = x.float().contiguous().numpy()
    if kind == T.F32:
        w.add_tensor(name, x)
    else:
        w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)


def load(where):
    t = {}
    for f in sorted(where.glob("*.safetensors")):
        t.update(load_file(f))
    return t


def experts_apart(t):
    """One tensor an expert, as the first files of Mixtral had them."""
    out = {}
    for name, x in t.items():
        if "_exps." not in name:
            out[name] = x
            continue
        for e in range(len(x)):
            out[name.replace("_exps.", f".{e}.")] = x[e]
    return out


def gate_with_up(t):
    """Gate and up of an expert as one matrix."""
    out = dict(t)
    for name in t:
        if "ffn_gate_exps" in name:
            up = out.pop(name.replace("_gate_", "_up_"))
            out[name.replace("_gate_", "_gate_up_")] = torch.cat(
                [out.pop(name), up], 1)
    return out


def convert(where, file, kind, old=False, change=lambda t: t):
    c = json.loads((where / "config.json").read_text())
    arch = ARCH[c["model_type"]]
    w = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    metadata(w, c, old)
    vocabulary(w, where, c)
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    t = {}
    for name, x in rearranged(load(where), c, old).items():
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert to, name
        t[to] = x
    for name, x in change(t).items():
        put(w, name, x, kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- what the tests read ----


def small(make, **kw):
    """A configuration of make_goldens, smaller still and in bfloat16."""
    c = make(**dict(dict(vocab_size=32, hidden_size=16, num_hidden_layers=2,
                         num_attention_heads=2, intermediate_size=24,
                         max_position_embeddings=64,
                         torch_dtype="bfloat16"), **kw))
    if "num_key_value_heads" in c and "kv_lora_rank" in c:
        c["num_key_value_heads"] = c["num_attention_heads"]
    return c


def models():
    import make_goldens as g

    mla = dict(q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=8,
               qk_rope_head_dim=4, v_head_dim=6, moe_intermediate_size=8,
               n_routed_experts=4, num_experts_per_tok=2, n_group=2,
               topk_group=1)

    def of(name, **more):
        return lambda **kw: {**g.CASES[name][0], **more, **kw}

    return {
        "v3": small(g.v3, **mla),
        "v2": small(g.v2, **dict(mla, rope_scaling=g.yarn(
            40, 16, 0.707, 0.707))),
        "v2-lite": small(g.v2, **dict(
            mla, q_lora_rank=None, topk_method="greedy", n_group=1,
            topk_group=1, routed_scaling_factor=1.0)),
        "qwen3moe": small(g.qwen3, head_dim=12, moe_intermediate_size=8,
                          num_experts=4, num_experts_per_tok=2,
                          num_key_value_heads=1, tie_word_embeddings=True,
                          rope_scaling=dict(
                              rope_type="yarn", factor=4.0,
                              original_max_position_embeddings=16)),
        "qwen2moe": small(of("qwen2-moe"), moe_intermediate_size=8,
                          shared_expert_intermediate_size=12,
                          num_experts=4, mlp_only_layers=[]),
        "mixtral": small(of("mixtral"), num_attention_heads=4,
                         num_key_value_heads=2, num_local_experts=4,
                         intermediate_size=12),
        "olmoe": small(of("olmoe"), num_key_value_heads=2, num_experts=4,
                       num_experts_per_tok=2, intermediate_size=12,
                       clip_qkv=1.5),
        "gpt-oss": small(of("gpt-oss"), num_key_value_heads=1, head_dim=6,
                         num_local_experts=4, num_experts_per_tok=2,
                         intermediate_size=12, sliding_window=5,
                         tie_word_embeddings=False, swiglu_limit=7.0,
                         rope_scaling=dict(
                             rope_type="yarn", factor=4.0, truncate=False,
                             original_max_position_embeddings=16)),
    }


def write_models(out):
    import make_goldens as g

    for seed, (name, c) in enumerate(models().items()):
        disk, _ = g.stored(g.weights(c, 900 + seed), "bf16")
        g.save(out / name, c, disk, 1)
        convert(out / name, out / f"{name}.gguf", T.BF16)
        if name == "v2-lite":
            convert(out / name, out / f"{name}-old.gguf", T.BF16, old=True)
        if name == "mixtral":
            convert(out / name, out / f"{name}-apart.gguf", T.BF16,
                    change=experts_apart)
        if name == "qwen3moe":
            convert(out / name, out / f"{name}-joined.gguf", T.BF16,
                    change=gate_with_up)


TYPES = (T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1,
         T.Q4_K, T.Q5_K, T.Q6_K, T.MXFP4)


def write_blocks(out):
    """Per type: its number, blocks, elements and bytes of a block (uint32
    each), the blocks, their values.  Bytes are random, but no scale is
    infinite or no number."""
    rng = np.random.default_rng(7)
    with open(out / "blocks.bin", "wb") as f:
        for kind in TYPES:
            elems, size = gguf.GGML_QUANT_SIZES[kind]
            n = 1024 // elems
            raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
            if kind == T.F32:
                raw = rng.normal(size=n).astype("<f4").view(
                    np.uint8).reshape(n, 4)
            halves = {T.F16: (0,), T.Q8_0: (0,), T.Q4_0: (0,),
                      T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2),
                      T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,),
                      T.BF16: (0,)}
            for at in halves.get(kind, ()):
                raw[:, at + 1] &= 0xbf if kind == T.BF16 else 0xfb
            if kind == T.MXFP4:
                raw[:4, 0] = (0, 1, 2, 254)
            values = gguf.quants.dequantize(raw, kind).astype("<f4")
            f.write(np.array([kind, n, elems, size], "<u4").tobytes())
            f.write(raw.tobytes())
            f.write(values.tobytes())


def write_mixed(out):
    """A model of random blocks, every type in it, and SHA-256 of the float32
    values of each tensor."""
    rng = np.random.default_rng(8)
    w = gguf.GGUFWriter(out / "mixed.gguf", "qwen3moe")
    c = dict(model_type="qwen3_moe", max_position_embeddings=64,
             hidden_size=256, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, head_dim=32, rms_norm_eps=1e-6,
             intermediate_size=256, moe_intermediate_size=256, vocab_size=32,
             num_experts_per_tok=1, num_experts=2, rope_theta=10000.0,
             norm_topk_prob=True)
    metadata(w, c, False)
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    sums = {}

    def add(name, shape, kind):
        if kind == T.F32:
            x = rng.normal(1, 0.1, shape).astype(np.float32)
            w.add_tensor(name, x)
        else:
            raw = random_blocks(kind, shape, rng)
            x = gguf.quants.dequantize(raw, kind).astype("<f4")
            w.add_tensor(name, raw, raw_dtype=kind)
        sums[name] = hashlib.sha256(x.tobytes()).hexdigest()

    add("token_embd.weight", (32, 256), T.Q8_0)
    add("output.weight", (32, 256), T.Q6_K)
    add("output_norm.weight", (256,), T.F32)
    add("blk.0.attn_norm.weight", (256,), T.F32)
    add("blk.0.ffn_norm.weight", (256,), T.F32)
    add("blk.0.attn_q_norm.weight", (32,), T.F32)
    add("blk.0.attn_k_norm.weight", (32,), T.F32)
    add("blk.0.attn_q.weight", (64, 256), T.Q4_K)
    add("blk.0.attn_k.weight", (32, 256), T.Q5_K)
    add("blk.0.attn_v.weight", (32, 256), T.MXFP4)
    add("blk.0.attn_output.weight", (256, 64), T.Q4_0)
    add("blk.0.ffn_gate_inp.weight", (2, 256), T.F32)
    add("blk.0.ffn_gate_exps.weight", (2, 256, 256), T.Q4_K)
    add("blk.0.ffn_up_exps.weight", (2, 256, 256), T.MXFP4)
    add("blk.0.ffn_down_exps.weight", (2, 256, 256), T.Q4_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    (out / "mixed.json").write_text(json.dumps(sums, indent=1) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("what", nargs="?", choices=["convert"])
    p.add_argument("dir", nargs="?", type=pathlib.Path)
    p.add_argument("file", nargs="?", type=pathlib.Path)
    p.add_argument("--type", default="bf16")
    p.add_argument("--old", action="store_true")
    a = p.parse_args()
    if a.what:
        convert(a.dir, a.file, T[a.type.upper()], a.old)
        return
    OUT.mkdir(parents=True, exist_ok=True)
    write_models(OUT)
    write_blocks(OUT)
    write_mixed(OUT)


if __name__ == "__main__":
    main()
