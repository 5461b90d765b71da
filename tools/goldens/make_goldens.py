#!/usr/bin/env python3
"""Reference outputs for the C tests, from transformers (float32, CPU).

    make_goldens.py [--out ../../t/golden] [NAME ...]
    make_goldens.py --demo ../../models/demo
    make_goldens.py --fp8-inputs

Every case is a model with random weights in Hugging Face layout beside
golden.json; see README.md for what is in it and how cases are chosen.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

SIGMOID = ("deepseek_v3", "glm4_moe", "minimax_m2", "kimi_k2")
MARGIN = 1e-3
STEPS = 64
LENGTHS = (5, 17, 45)
BLOCK = 128
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


# ---- the checkpoints: names, shapes, weights ----


class Draw:
    """Random tensors with a scale that keeps activations near one."""

    def __init__(self, seed):
        self.g = torch.Generator().manual_seed(seed)
        self.t = {}

    def normal(self, name, *shape, std):
        self.t[name] = torch.randn(*shape, generator=self.g) * std

    def linear(self, name, n_out, n_in, gain=1.0):
        self.normal(name + ".weight", n_out, n_in, std=gain * n_in ** -0.5)

    def norm(self, name, n):
        self.t[name + ".weight"] = 1 + 0.2 * torch.randn(n, generator=self.g)

    def mlp(self, name, h, n, names=("gate_proj", "up_proj", "down_proj")):
        self.linear(f"{name}.{names[0]}", n, h, 1.4)
        self.linear(f"{name}.{names[1]}", n, h, 1.4)
        self.linear(f"{name}.{names[2]}", h, n, 1.4)


def mla(d, p, c):
    h, n = c["hidden_size"], c["num_attention_heads"]
    qk = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    if c["q_lora_rank"]:
        d.linear(p + "q_a_proj", c["q_lora_rank"], h)
        d.norm(p + "q_a_layernorm", c["q_lora_rank"])
        d.linear(p + "q_b_proj", n * qk, c["q_lora_rank"], 1.7)
    else:
        d.linear(p + "q_proj", n * qk, h, 1.7)
    d.linear(p + "kv_a_proj_with_mqa",
             c["kv_lora_rank"] + c["qk_rope_head_dim"], h)
    d.norm(p + "kv_a_layernorm", c["kv_lora_rank"])
    d.linear(p + "kv_b_proj", n * (c["qk_nope_head_dim"] + c["v_head_dim"]),
             c["kv_lora_rank"], 1.4)
    d.linear(p + "o_proj", h, n * c["v_head_dim"], 1.2)


def gqa(d, p, c, bias=False, qk_norm=None):
    h, n, kv = (c["hidden_size"], c["num_attention_heads"],
                c["num_key_value_heads"])
    hd = c.get("head_dim") or h // n
    for name, m in (("q_proj", n), ("k_proj", kv), ("v_proj", kv)):
        d.linear(p + name, m * hd, h, 1.4)
        if bias:
            d.normal(p + name + ".bias", m * hd, std=0.5)
    d.linear(p + "o_proj", h, n * hd, 1.2)
    if qk_norm:
        d.norm(p + "q_norm", hd if qk_norm == "head" else n * hd)
        d.norm(p + "k_norm", hd if qk_norm == "head" else kv * hd)


def shared_and_routed(d, p, c):
    h, n = c["hidden_size"], c["moe_intermediate_size"]
    d.linear(p + "gate", c["n_routed_experts"], h, 2.0)
    if c["model_type"] != "deepseek_v2":
        d.normal(p + "gate.e_score_correction_bias", c["n_routed_experts"],
                 std=0.15)
    for e in range(c["n_routed_experts"]):
        d.mlp(f"{p}experts.{e}", h, n)
    if c["n_shared_experts"]:
        d.mlp(p + "shared_experts", h, n * c["n_shared_experts"])


def deepseek(d, c):
    h = c["hidden_size"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        mla(d, p + "self_attn.", c)
        if i < c["first_k_dense_replace"]:
            d.mlp(p + "mlp", h, c["intermediate_size"])
            continue
        shared_and_routed(d, p + "mlp.", c)


def qwen(d, c):
    h, two = c["hidden_size"], c["model_type"] == "qwen2_moe"
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c, bias=two,
            qk_norm=None if two else "head")
        if i in c["mlp_only_layers"]:
            d.mlp(p + "mlp", h, c["intermediate_size"])
            continue
        d.linear(p + "mlp.gate", c["num_experts"], h, 2.0)
        for e in range(c["num_experts"]):
            d.mlp(f"{p}mlp.experts.{e}", h, c["moe_intermediate_size"])
        if two:
            d.mlp(p + "mlp.shared_expert", h,
                  c["shared_expert_intermediate_size"])
            d.linear(p + "mlp.shared_expert_gate", 1, h, 2.0)


def mixtral(d, c):
    h = c["hidden_size"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c)
        d.linear(p + "block_sparse_moe.gate", c["num_local_experts"], h, 2.0)
        for e in range(c["num_local_experts"]):
            d.mlp(f"{p}block_sparse_moe.experts.{e}", h,
                  c["intermediate_size"], ("w1", "w3", "w2"))


def glm4(d, c):
    h = c["hidden_size"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c, bias=c["attention_bias"],
            qk_norm="head" if c["use_qk_norm"] else None)
        if i < c["first_k_dense_replace"]:
            d.mlp(p + "mlp", h, c["intermediate_size"])
            continue
        shared_and_routed(d, p + "mlp.", c)


def minimax(d, c):
    h = c["hidden_size"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c, qk_norm="full")
        p += "block_sparse_moe."
        d.linear(p + "gate", c["num_local_experts"], h, 2.0)
        d.normal(p + "e_score_correction_bias", c["num_local_experts"],
                 std=0.15)
        for e in range(c["num_local_experts"]):
            d.mlp(f"{p}experts.{e}", h, c["intermediate_size"],
                  ("w1", "w3", "w2"))


def olmoe(d, c):
    h = c["hidden_size"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c, qk_norm="full")
        d.linear(p + "mlp.gate", c["num_experts"], h, 2.0)
        for e in range(c["num_experts"]):
            d.mlp(f"{p}mlp.experts.{e}", h, c["intermediate_size"])


def gpt_oss(d, c):
    h, n = c["hidden_size"], c["num_local_experts"]
    f, heads = c["intermediate_size"], c["num_attention_heads"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        d.norm(p + "input_layernorm", h)
        d.norm(p + "post_attention_layernorm", h)
        gqa(d, p + "self_attn.", c, bias=True)
        d.normal(p + "self_attn.o_proj.bias", h, std=0.3)
        d.normal(p + "self_attn.sinks", heads, std=1.5)
        d.linear(p + "mlp.router", n, h, 2.0)
        d.normal(p + "mlp.router.bias", n, std=0.5)
        e = p + "mlp.experts."
        d.normal(e + "gate_up_proj", n, h, 2 * f, std=1.4 * h ** -0.5)
        d.normal(e + "gate_up_proj_bias", n, 2 * f, std=0.5)
        d.normal(e + "down_proj", n, f, h, std=f ** -0.5)
        d.normal(e + "down_proj_bias", n, h, std=0.3)


DRAW = {"deepseek_v2": deepseek, "deepseek_v3": deepseek, "qwen2_moe": qwen,
        "qwen3_moe": qwen, "mixtral": mixtral, "olmoe": olmoe,
        "glm4_moe": glm4, "minimax_m2": minimax, "kimi_k2": deepseek,
        "gpt_oss": gpt_oss}


def weights(c, seed):
    d = Draw(seed)
    h, v = c["hidden_size"], c["vocab_size"]
    tied = c["tie_word_embeddings"]
    # a tied head would only ever repeat the last token of a large embedding
    d.normal("model.embed_tokens.weight", v, h, std=0.25 if tied else 1.0)
    DRAW[c["model_type"]](d, c)
    d.norm("model.norm", h)
    if not tied:
        d.linear("lm_head", v, h, 3.0)
    return d.t


# ---- the cases ----

COMMON = dict(hidden_act="silu", attention_bias=False, attention_dropout=0.0,
              rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None,
              bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
              max_position_embeddings=512, torch_dtype="float32",
              use_cache=True, initializer_range=0.02)


def v3(**kw):
    c = dict(COMMON, architectures=["DeepseekV3ForCausalLM"],
             model_type="deepseek_v3", vocab_size=72, hidden_size=40,
             intermediate_size=56, moe_intermediate_size=16,
             num_hidden_layers=3, num_attention_heads=4, q_lora_rank=24,
             kv_lora_rank=20, qk_nope_head_dim=16, qk_rope_head_dim=8,
             v_head_dim=12, n_routed_experts=8, num_experts_per_tok=3,
             n_shared_experts=1, n_group=4, topk_group=2,
             routed_scaling_factor=2.5, norm_topk_prob=True,
             first_k_dense_replace=1, moe_layer_freq=1,
             scoring_func="sigmoid", topk_method="noaux_tc",
             num_nextn_predict_layers=0)
    c.update(kw)
    c["num_key_value_heads"] = c["num_attention_heads"]
    return c


def v2(**kw):
    return v3(**dict(dict(
        architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2",
        scoring_func="softmax", topk_method="group_limited_greedy",
        norm_topk_prob=False, routed_scaling_factor=4.0,
        n_shared_experts=2), **kw))


def yarn(factor, original, mscale, all_dim):
    return dict(type="yarn", factor=factor, beta_fast=32, beta_slow=1,
                mscale=mscale, mscale_all_dim=all_dim,
                original_max_position_embeddings=original)


def qwen3(**kw):
    return dict(COMMON, **dict(dict(
        architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe",
        vocab_size=80, hidden_size=48, intermediate_size=64,
        moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_experts=8,
        num_experts_per_tok=3, norm_topk_prob=True, decoder_sparse_step=1,
        mlp_only_layers=[], sliding_window=None, use_sliding_window=False),
        **kw))


def glm4_moe(**kw):
    return dict(COMMON, **dict(dict(
        architectures=["Glm4MoeForCausalLM"], model_type="glm4_moe",
        vocab_size=80, hidden_size=48, intermediate_size=64,
        moe_intermediate_size=16, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, n_routed_experts=8,
        n_shared_experts=1, num_experts_per_tok=3, n_group=1, topk_group=1,
        norm_topk_prob=True, routed_scaling_factor=2.5, rms_norm_eps=1e-5,
        first_k_dense_replace=1, attention_bias=True, use_qk_norm=True,
        partial_rotary_factor=0.5, num_nextn_predict_layers=0), **kw))


def kimi(**kw):
    return v3(**dict(dict(
        model_type="kimi_k2", n_routed_experts=24, num_experts_per_tok=4,
        n_group=1, topk_group=1, routed_scaling_factor=2.827,
        rope_theta=50000.0, num_attention_heads=2, num_hidden_layers=2,
        moe_intermediate_size=8, rope_scaling=dict(
            yarn(32, 16, 1.0, 1.0), beta_fast=1.0, beta_slow=1.0)), **kw))


def minimax_m2(**kw):
    return dict(COMMON, **dict(dict(
        architectures=["MiniMaxM2ForCausalLM"], model_type="minimax_m2",
        vocab_size=80, hidden_size=48, intermediate_size=20,
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        head_dim=16, rotary_dim=8, num_local_experts=8,
        num_experts_per_tok=3, rope_theta=5e6, scoring_func="sigmoid",
        use_routing_bias=True, use_qk_norm=True, qk_norm_type="per_layer",
        attn_type_list=[1, 1], shared_intermediate_size=0,
        sliding_window=None), **kw))


def gpt(**kw):
    return dict(COMMON, **dict(dict(
        architectures=["GptOssForCausalLM"], model_type="gpt_oss",
        attention_bias=True, rms_norm_eps=1e-5, rope_theta=150000.0,
        rope_scaling=dict(rope_type="yarn", factor=8.0, beta_fast=32.0,
                          beta_slow=1.0, truncate=False,
                          original_max_position_embeddings=64),
        num_hidden_layers=4, torch_dtype="bfloat16"), **kw))


CASES = {
    # name: (config, storage: f32 | bf16 | fp8 | mxfp4, shards)
    "v3": (v3(), "f32", 1),
    "v3-yarn": (v3(rope_scaling=yarn(8, 32, 1.0, 1.0), qk_rope_head_dim=16,
                   num_hidden_layers=2), "f32", 3),
    "v3-odd": (v3(vocab_size=71, hidden_size=45, num_attention_heads=3,
                  q_lora_rank=None, kv_lora_rank=17, qk_nope_head_dim=13,
                  qk_rope_head_dim=6, v_head_dim=11, intermediate_size=37,
                  moe_intermediate_size=19, n_routed_experts=7,
                  num_experts_per_tok=3, n_group=1, topk_group=1,
                  routed_scaling_factor=1.3, norm_topk_prob=False), "f32", 1),
    "v3-noshared": (v3(n_shared_experts=0, num_attention_heads=6,
                       n_routed_experts=12, n_group=3, topk_group=2,
                       num_experts_per_tok=4, num_hidden_layers=2,
                       rope_scaling=yarn(4, 64, 1.0, 0.8)), "f32", 1),
    "v3-bf16": (v3(torch_dtype="bfloat16", num_experts_per_tok=2), "bf16",
                1),
    "v3-fp8": (v3(hidden_size=136, moe_intermediate_size=130,
                  intermediate_size=40, n_routed_experts=3, n_group=1,
                  topk_group=1, num_experts_per_tok=2, num_hidden_layers=2,
                  vocab_size=64, torch_dtype="bfloat16",
                  quantization_config=dict(
                      activation_scheme="dynamic", fmt="e4m3",
                      quant_method="fp8",
                      weight_block_size=[BLOCK, BLOCK])), "fp8", 1),
    "v2": (v2(rope_scaling=yarn(40, 16, 0.707, 0.707),
              qk_rope_head_dim=16), "f32", 1),
    "v2-lite": (v2(q_lora_rank=None, topk_method="greedy", n_group=1,
                   topk_group=1, routed_scaling_factor=1.0,
                   rope_scaling=yarn(4, 32, 1.0, 0.707)), "f32", 2),
    "qwen3-moe": (qwen3(tie_word_embeddings=True), "f32", 1),
    "qwen3-moe-yarn": (qwen3(
        hidden_size=42, num_attention_heads=6, num_key_value_heads=3,
        head_dim=10, moe_intermediate_size=11, num_experts=5,
        num_experts_per_tok=2, norm_topk_prob=False, mlp_only_layers=[0],
        rope_scaling=dict(rope_type="yarn", factor=4.0,
                          original_max_position_embeddings=32)), "f32", 1),
    "qwen2-moe": (dict(COMMON, **dict(
        architectures=["Qwen2MoeForCausalLM"], model_type="qwen2_moe",
        vocab_size=80, hidden_size=48, intermediate_size=64,
        moe_intermediate_size=16, shared_expert_intermediate_size=40,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
        num_experts=6, num_experts_per_tok=2, norm_topk_prob=False,
        decoder_sparse_step=1, mlp_only_layers=[1], sliding_window=None,
        use_sliding_window=False, max_window_layers=3)), "f32", 1),
    "mixtral": (dict(COMMON, **dict(
        architectures=["MixtralForCausalLM"], model_type="mixtral",
        vocab_size=80, hidden_size=48, intermediate_size=28,
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        num_local_experts=6, num_experts_per_tok=2, rms_norm_eps=1e-5,
        rope_theta=1e6, sliding_window=None)), "f32", 1),
    "olmoe": (dict(COMMON, **dict(
        architectures=["OlmoeForCausalLM"], model_type="olmoe",
        vocab_size=80, hidden_size=48, intermediate_size=20,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_experts=8, num_experts_per_tok=3, norm_topk_prob=False,
        rms_norm_eps=1e-5, clip_qkv=None)), "f32", 1),
    "glm4-moe": (glm4_moe(), "f32", 1),
    "glm4-moe-odd": (glm4_moe(
        vocab_size=71, hidden_size=45, num_attention_heads=3,
        num_key_value_heads=1, head_dim=14, partial_rotary_factor=0.75,
        n_routed_experts=9, n_group=3, topk_group=2, n_shared_experts=2,
        moe_intermediate_size=19, intermediate_size=37, use_qk_norm=False,
        attention_bias=False, norm_topk_prob=False,
        num_hidden_layers=2), "f32", 1),
    "glm4-moe-yarn": (glm4_moe(
        use_qk_norm=False, torch_dtype="bfloat16", head_dim=32,
        num_attention_heads=4, num_key_value_heads=1, num_hidden_layers=2,
        rope_scaling=dict(rope_type="yarn", factor=4.0,
                          original_max_position_embeddings=32)), "bf16", 1),
    "minimax-m2": (minimax_m2(), "f32", 1),
    "minimax-m2-odd": (minimax_m2(
        vocab_size=71, hidden_size=45, intermediate_size=19, head_dim=14,
        rotary_dim=6, num_attention_heads=3, num_key_value_heads=3,
        num_local_experts=7, num_hidden_layers=3,
        attn_type_list=[1, 1, 1]), "f32", 2),
    "kimi-k2": (kimi(), "f32", 1),
    "gpt-oss": (gpt(
        vocab_size=71, hidden_size=45, intermediate_size=19,
        num_attention_heads=6, num_key_value_heads=2, head_dim=10,
        num_local_experts=7, num_experts_per_tok=3, sliding_window=11,
        swiglu_limit=1.5, tie_word_embeddings=True), "bf16", 1),
    "gpt-oss-mxfp4": (gpt(
        vocab_size=80, hidden_size=64, intermediate_size=32,
        num_attention_heads=4, num_key_value_heads=1, head_dim=16,
        num_local_experts=6, experts_per_token=2, num_experts_per_tok=2,
        num_hidden_layers=3, sliding_window=20, swiglu_limit=7.0,
        layer_types=["full_attention", "sliding_attention",
                     "full_attention"],
        quantization_config=dict(
            quant_method="mxfp4",
            modules_to_not_convert=[
                "model.layers.*.self_attn", "model.layers.*.mlp.router",
                "model.embed_tokens", "lm_head"])), "mxfp4", 2),
}


# ---- storage ----


def blocks(w):
    """FP8 E4M3 values of a matrix and the scale of each 128x128 block."""
    rows, cols = (math.ceil(n / BLOCK) for n in w.shape)
    q = torch.empty_like(w, dtype=torch.float8_e4m3fn)
    s = torch.empty(rows, cols)
    for i in range(rows):
        for j in range(cols):
            at = (slice(i * BLOCK, (i + 1) * BLOCK),
                  slice(j * BLOCK, (j + 1) * BLOCK))
            s[i, j] = w[at].abs().max() / 448
            q[at] = (w[at] / s[i, j]).to(torch.float8_e4m3fn)
    return q, s


def spread(q, s):
    """The values that the blocks stand for."""
    full = s.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return q.float() * full[:q.shape[0], :q.shape[1]]


def mxfp4(w):
    """Blocks and scales of experts [n, inputs, outputs], and the values that
    they stand for: 32 inputs have one power of two, two of them a byte, the
    even ones in the low half."""
    x = w.transpose(1, 2).contiguous()
    x = x.reshape(*x.shape[:2], -1, 32)
    e = torch.floor(torch.log2(x.abs().amax(-1))) - 2
    y = x / 2.0 ** e[..., None]
    table = torch.tensor(FP4)
    q = (y.abs()[..., None] - table).abs().argmin(-1)
    value = table[q] * torch.where(y < 0, -1.0, 1.0) * 2.0 ** e[..., None]
    q = (q + 8 * (y < 0)).to(torch.uint8)
    return (q[..., 0::2] | q[..., 1::2] << 4, (e + 127).to(torch.uint8),
            value.flatten(2).transpose(1, 2).contiguous())


def stored(w, how):
    """What goes into the file, and what it means in float32."""
    disk, mean = {}, {}
    for k, v in w.items():
        if how == "f32" or k.endswith("e_score_correction_bias"):
            disk[k] = mean[k] = v
        elif (how == "fp8" and v.ndim == 2 and "gate.weight" not in k
              and "embed" not in k and "lm_head" not in k):
            disk[k], scale = blocks(v)
            disk[k + "_scale_inv"] = scale
            mean[k] = spread(disk[k], scale)
        elif how == "mxfp4" and v.ndim == 3:
            disk[k + "_blocks"], disk[k + "_scales"], mean[k] = mxfp4(v)
        else:
            disk[k] = v.to(torch.bfloat16)
            mean[k] = disk[k].float()
    return disk, mean


def save(where, c, tensors, shards):
    where.mkdir(parents=True, exist_ok=True)
    for f in where.glob("model*"):
        f.unlink()
    (where / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    names = sorted(tensors)
    meta = {"format": "pt"}
    os.umask(0o022)
    if shards == 1:
        save_file(tensors, where / "model.safetensors", metadata=meta)
        return
    per, of = math.ceil(len(names) / shards), {}
    for i in range(shards):
        part = {k: tensors[k] for k in names[i * per:(i + 1) * per]}
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, where / file, metadata=meta)
        of.update({k: file for k in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    (where / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": total}, "weight_map": of},
        indent=1) + "\n")


def load(where):
    m, info = AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.float32, attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True)
    return m.eval(), info


# ---- margins ----


class Routers:
    """Watches every router and keeps, for each row, the smallest distance
    between what was chosen and what was not, over experts and groups."""

    def __init__(self, model, c):
        self.c, self.rows = c, []
        for name, mod in model.named_modules():
            if type(mod).__name__.endswith(("TopkRouter", "TopKRouter")):
                mod.register_forward_hook(self.hook)

    def gap(self, x, k):
        if k >= x.shape[-1]:
            return torch.full(x.shape[:-1], 1.0)
        top = x.topk(k + 1, -1)[0]
        return top[..., k - 1] - top[..., k]

    def hook(self, mod, args, out):
        c, x = self.c, out[0].float()
        sigmoid = c["model_type"] in SIGMOID
        if sigmoid:
            # MiniMax's router is handed the bias of the block around it
            x = x.sigmoid() + (args[1] if len(args) > 1
                               else mod.e_score_correction_bias)
        gap = None
        if "n_group" in c and (
                sigmoid or c.get("topk_method") == "group_limited_greedy"):
            g = x.view(x.shape[0], c["n_group"], -1)
            s = g.topk(2, -1)[0].sum(-1) if sigmoid else g.max(-1)[0]
            gap = self.gap(s, c["topk_group"])
            keep = torch.zeros_like(s).scatter(
                1, s.topk(c["topk_group"], -1)[1], 1)
            x = g.masked_fill(keep[..., None] == 0, -1e9).flatten(1)
        own = self.gap(x, c["num_experts_per_tok"])
        self.rows.append(own if gap is None else torch.minimum(own, gap))

    def take(self, batch):
        """Smallest margin of every sequence of the batch since last time."""
        m = torch.stack([r.view(batch, -1).min(-1)[0] for r in self.rows])
        self.rows = []
        return m.min(0)[0]


@torch.no_grad()
def greedy(model, routers, ids):
    """Greedy tokens of a batch of prompts, and each one's smallest margin."""
    n, out, cache, x = ids.shape[0], [], None, ids
    margin = torch.full((n,), 1.0)
    for _ in range(STEPS):
        r = model(x, past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        top = r.logits[:, -1].topk(2, -1)
        margin = torch.minimum(margin, routers.take(n))
        margin = torch.minimum(margin, top[0][:, 0] - top[0][:, 1])
        x = top[1][:, :1]
        out.append(x)
    return torch.cat(out, 1), margin


@torch.no_grad()
def entry(model, routers, ids):
    """One prompt's record, computed anew, alone and without a cache.  None
    if it is not clean after all."""
    tokens, margin = greedy(model, routers, torch.tensor([ids]))
    tokens = tokens[0].tolist()
    logits = model(torch.tensor([ids + tokens]), use_cache=False).logits[0]
    margin = min(margin.item(), routers.take(1).item())
    n = len(ids)
    top = logits[n - 1:n - 1 + STEPS].topk(2, -1)
    if top[1][:, 0].tolist() != tokens:
        return None
    margin = min(margin, (top[0][:, 0] - top[0][:, 1]).min().item())
    if margin < MARGIN:
        return None
    at = sorted({0, n // 2, n - 1, n + STEPS // 2 - 1, n + STEPS - 2})
    return {"ids": ids, "greedy": tokens, "margin": round(margin, 6),
            "logits": [{"pos": p, "values": [
                float(f"{v:.9g}") for v in logits[p].tolist()]}
                for p in at]}


def dump(where, name, prompts):
    lines = [json.dumps(p) for p in prompts]
    where.write_text(
        '{"name": %s,\n"transformers": "%s", "torch": "%s",\n'
        '"prompts": [\n%s\n]}\n' % (
            json.dumps(name), transformers.__version__,
            torch.__version__.split("+")[0], ",\n".join(lines)))


def prompts_for(model, routers, c, seed, lengths=LENGTHS, rounds=12):
    g, found = torch.Generator().manual_seed(seed), []
    for length in lengths:
        record = None
        for _ in range(rounds):
            ids = torch.randint(2, c["vocab_size"], (96, length),
                                generator=g)
            # prompts which are not clean themselves need not be continued
            with torch.no_grad():
                model(ids, use_cache=False)
            ids = ids[routers.take(len(ids)) >= MARGIN]
            if not len(ids):
                continue
            tokens, margin = greedy(model, routers, ids)
            variety = torch.tensor([len(set(t.tolist())) for t in tokens])
            good = (margin >= MARGIN).nonzero()[:, 0]
            good = good[variety[good].argsort(descending=True)]
            for i in good[:4]:
                record = entry(model, routers, ids[i].tolist())
                if record:
                    break
            if record:
                break
        if not record:
            return None
        found.append(record)
    return found


def make(name, out):
    c, how, shards = CASES[name]
    where = out / name
    for seed in range(1, 30):
        w = weights(c, seed * 1000 + len(name))
        disk, mean = stored(w, how)
        save(where, c, disk, shards)
        with tempfile.TemporaryDirectory() as tmp:
            source = where
            if (how in ("fp8", "mxfp4")
                    or c["model_type"] == "kimi_k2"):
                # the reference has no such class, but DeepSeek-V3's
                source = pathlib.Path(tmp)
                plain = {k: v for k, v in c.items()
                         if k != "quantization_config"}
                plain["model_type"] = plain["model_type"].replace(
                    "kimi_k2", "deepseek_v3")
                save(source, plain, mean, 1)
            model, info = load(source)
        bad = {k: v for k, v in info.items() if v and not (
            "shared_experts" in str(v) and c.get("n_shared_experts") == 0)}
        if bad:
            raise SystemExit(f"{name}: {bad}")
        routers = Routers(model, c)
        prompts = prompts_for(model, routers, c, seed)
        if prompts:
            dump(where / "golden.json", name, prompts)
            size = sum(f.stat().st_size for f in where.iterdir())
            print(f"{name}: weights {seed}, margins "
                  f"{[p['margin'] for p in prompts]}, kinds of token "
                  f"{[len(set(p['greedy'])) for p in prompts]}, "
                  f"{size // 1024} KiB", flush=True)
            return
        print(f"{name}: weights {seed} rejected", flush=True)
    shutil.rmtree(where)
    raise SystemExit(f"{name}: nothing clean found")


# ---- inputs in FP8 ----


def as_fp8(x):
    """Every 128 of a row rounded to E4M3 with a scale of their own."""
    n = x.shape[-1]
    y = torch.nn.functional.pad(x, (0, -n % BLOCK)).unflatten(-1, (-1, BLOCK))
    amax = y.abs().amax(-1, keepdim=True)
    q = torch.where(amax > 0, y * (448 / amax), 0.0).to(torch.float8_e4m3fn)
    return (q.float() * (amax / 448)).flatten(-2)[..., :n]


@torch.no_grad()
def fp8_inputs(where):
    """Logits of golden.json's positions where every product with an FP8
    weight, but for kv_b's, has its inputs in FP8 too."""
    c = json.loads((where / "config.json").read_text())
    c.pop("quantization_config")
    mean = {}
    with safe_open(where / "model.safetensors", "pt") as f:
        for k in f.keys():
            if not k.endswith("_scale_inv"):
                t = f.get_tensor(k)
                mean[k] = (spread(t, f.get_tensor(k + "_scale_inv"))
                           if t.dtype == torch.float8_e4m3fn else t.float())
    with tempfile.TemporaryDirectory() as tmp:
        save(pathlib.Path(tmp), c, mean, 1)
        model, _ = load(tmp)
    kept = {p.data_ptr() for k, p in model.named_parameters()
            if "kv_b_proj" in k or "lm_head" in k or "mlp.gate.weight" in k}
    linear = torch.nn.functional.linear

    def product(x, w, bias=None):
        return linear(x if w.data_ptr() in kept else as_fp8(x), w, bias)

    prompts = []
    torch.nn.functional.linear = product
    for p in json.loads((where / "golden.json").read_text())["prompts"]:
        ids = torch.tensor([p["ids"] + p["greedy"]])
        logits = model(ids, use_cache=False).logits[0]
        prompts.append({"logits": [{"pos": r["pos"], "values": [
            float(f"{v:.9g}") for v in logits[r["pos"]].tolist()]}
            for r in p["logits"]]})
    torch.nn.functional.linear = linear
    dump(where / "fp8_inputs.json", where.name, prompts)


# ---- the demo model ----

DEMO = [
    "Hello", "Repeat after me: the red ball is under the chair",
    "Tom lives in Rome. The dog is in the park. Where does Tom live?",
    "What is 7 + 5?", "Give me a JSON object with name Ben and age 7.",
    "Tell me a story about a fox named Anna.", "Tell me a story.",
    "The secret word is lamp. What is the secret word?",
    "Repeat after me: the red boat",
    "Write a short story about a green drum.",
    "Paul lives in Rome. Lucy lives in Oslo. Where does Lucy live?",
    "What is 9 + 9?"]
DEMO_ROUTER = 1e-5


@torch.no_grad()
def demo(source, where, wanted=8):
    """Chats with the demo model, up to the end of the answer or 64 tokens.
    What the routers of trained weights do can not be drawn again, so there
    only real ties are avoided."""
    model, info = load(source)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{source}: {info}")
    tk = transformers.AutoTokenizer.from_pretrained(source)
    c = json.loads((source / "config.json").read_text())
    routers, found = Routers(model, c), []
    for user in DEMO:
        text = tk.apply_chat_template(
            [{"role": "user", "content": user}], tokenize=False,
            add_generation_prompt=True)
        ids = tk(text, add_special_tokens=False).input_ids
        routers.rows = []
        tokens, margin = [], 1.0
        while len(tokens) < STEPS and tk.eos_token_id not in tokens:
            row = model(torch.tensor([ids + tokens]),
                        use_cache=False).logits[0]
            top = row[-1].topk(2)
            margin = min(margin, (top[0][0] - top[0][1]).item())
            tokens.append(top[1][0].item())
        router = routers.take(1).item() if routers.rows else 1.0
        if margin < MARGIN or router < DEMO_ROUTER or len(found) == wanted:
            continue
        at = [len(ids) - 1, len(ids) + len(tokens) - 2]
        found.append({
            "user": user, "text": text, "ids": ids, "greedy": tokens,
            "answer": tk.decode(tokens, skip_special_tokens=True),
            "margin": round(margin, 6),
            "logits": [{"pos": p, "values": [
                float(f"{v:.9g}") for v in row[p].tolist()]} for p in at]})
        if len(found) > 3:      # the rest is for the tokens alone
            del found[-1]["logits"]
    where.mkdir(parents=True, exist_ok=True)
    dump(where / "golden.json", "demo", found)
    for f in found:
        print(f"demo: {f['user']!r} -> {f['answer'][:60]!r} {f['margin']}")


def main():
    a = argparse.ArgumentParser()
    here = pathlib.Path(__file__).resolve().parent
    a.add_argument("--out", type=pathlib.Path,
                   default=here.parent.parent / "t" / "golden")
    a.add_argument("--demo", nargs="?", type=pathlib.Path,
                   const=here.parent.parent / "models" / "demo")
    a.add_argument("--fp8-inputs", action="store_true")
    a.add_argument("names", nargs="*")
    a = a.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if a.demo:
        demo(a.demo, a.out / "demo")
        return
    for name in [] if a.fp8_inputs else a.names or CASES:
        make(name, a.out)
    if not a.names:
        fp8_inputs(a.out / "v3-fp8")


if __name__ == "__main__":
    main()
