"""Makes tiny networks with random weights and their vectors, with the reference implementations.

    pip install transformers torch
    python models/golden/make_tiny.py [NAME...]

Each network has its own directory beside this file: config.json as the published models of its
family have it, tokenizer.json of whole words, model.safetensors, and golden.json with token ids
and unit vectors. The vectors come from `transformers`, one text at a time, in eager attention.
"""

import base64
import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent

WORDS = (
    "the corpus is backup and vectors are derived from it on a schedule so that every index can be "
    "rebuilt when account region or provider gone"
).split()

TEXTS = [
    "the",
    "corpus is backup",
    "vectors are derived from it on a schedule so that every index can be rebuilt",
    " ".join(WORDS * 2)[:200].rsplit(" ", 1)[0],
]


def tokenizer(specials, single):
    """Whole words; `single` is the template around a text."""
    vocab = {w: i for i, w in enumerate(specials + sorted(set(WORDS)))}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else {"SpecialToken": {"id": p, "type_id": 0}} for p in single]
    used = {p: {"id": p, "ids": [vocab[p]], "tokens": [p]} for p in single if p != "A"}
    return vocab, {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": used},
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": specials[1]},
    }


def ids_of(vocab, single, text):
    words = [vocab[w] for w in text.split()]
    return [i for p in single for i in (words if p == "A" else [vocab[p]])]


def pooled(rows, how, dense=()):
    row = {"mean": rows.mean(0), "cls": rows[0], "last_token": rows[-1]}[how]
    for layer in dense:
        row = layer(row)
    return (row / row.norm()).numpy().astype("<f4")


def write(name, model, config, specials, single, pooling, rename=lambda n: n, dense=()):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        return
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    vocab, tokens = tokenizer(specials, single)
    model.eval()
    records = []
    with torch.no_grad():
        for text in TEXTS:
            ids = ids_of(vocab, single, text)
            rows = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            records.append({
                "text": text,
                "tokens": len(ids),
                "vector": base64.b64encode(pooled(rows, pooling, dense).tobytes()).decode(),
            })
    tensors = {rename(n): t.contiguous().clone() for n, t in model.state_dict().items() if "position_ids" not in n and "pooler" not in n}
    save_file(tensors, folder / "model.safetensors")
    for i, layer in enumerate(dense):
        (folder / f"{i + 2}_Dense").mkdir(exist_ok=True)
        save_file({"linear.weight": layer.weight.detach().clone()}, folder / f"{i + 2}_Dense" / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokens, ensure_ascii=False) + "\n")
    made = {"transformers": transformers.__version__, "torch": torch.__version__}
    golden = {"model": name, "pooling": pooling, "made_with": made, "texts": records}
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(name, sum(f.stat().st_size for f in folder.rglob("*.*")), sorted(tensors)[:3], [r["tokens"] for r in records])


def shake(model):
    """Random weights of a size at which every part matters, biases and norms included."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.1) + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0))
    return model


BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
COMMON = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)


def main():
    size = len(BERT_SPECIALS) + len(set(WORDS))
    eager = dict(attn_implementation="eager")

    c = dict(COMMON, vocab_size=size, max_position_embeddings=66, type_vocab_size=1, pad_token_id=3, bos_token_id=0,
             eos_token_id=2, hidden_act="gelu", layer_norm_eps=1e-5, position_embedding_type="absolute", model_type="xlm-roberta")
    specials, single = ["<s>", "<unk>", "</s>", "<pad>"], ["<s>", "A", "</s>"]
    model = shake(transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**c, **eager)))
    write("tiny-xlm-roberta", model, c, specials, single, "mean", rename=lambda n: "roberta." + n)

    c = dict(COMMON, vocab_size=size, max_position_embeddings=64, hidden_activation="gelu", norm_eps=1e-5, layer_norm_eps=1e-5,
             pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=3,
             global_rope_theta=160000.0, local_rope_theta=10000.0, local_attention=8, attention_bias=False, mlp_bias=False,
             norm_bias=False, model_type="modernbert")
    model = shake(transformers.ModernBertModel(transformers.ModernBertConfig(**c, **eager)))
    write("tiny-modernbert", model, c, BERT_SPECIALS, ["[CLS]", "A", "[SEP]"], "cls")

    c = dict(COMMON, vocab_size=size, max_position_embeddings=64, head_dim=8, num_key_value_heads=1, attention_bias=False,
             hidden_act="silu", rms_norm_eps=1e-6, rope_theta=1000000.0, rope_scaling=None, sliding_window=None,
             use_sliding_window=False, max_window_layers=3, tie_word_embeddings=True, eos_token_id=3, model_type="qwen3")
    model = shake(transformers.Qwen3Model(transformers.Qwen3Config(**c, **eager)))
    write("tiny-qwen3", model, c, BERT_SPECIALS, ["A", "[SEP]"], "last_token")

    c = dict(COMMON, vocab_size=size, max_position_embeddings=64, head_dim=8, num_key_value_heads=1, attention_bias=False,
             hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0,
             rope_scaling=None, sliding_window=8, use_bidirectional_attention=True, query_pre_attn_scalar=16,
             layer_types=["sliding_attention", "sliding_attention", "full_attention"], attn_logit_softcapping=None,
             pad_token_id=0, bos_token_id=2, eos_token_id=3, model_type="gemma3_text")
    rope = {"full_attention": dict(rope_type="default", rope_theta=c["rope_theta"]),
            "sliding_attention": dict(rope_type="default", rope_theta=c["rope_local_base_freq"])}
    made = {k: v for k, v in c.items() if not k.startswith("rope_")}
    model = shake(transformers.Gemma3TextModel(transformers.Gemma3TextConfig(**made, rope_parameters=rope, **eager)))
    dense = [shake(torch.nn.Linear(16, 24, bias=False)), shake(torch.nn.Linear(24, 16, bias=False))]
    write("tiny-gemma3", model, c, BERT_SPECIALS, ["[CLS]", "A", "[SEP]"], "mean", dense=dense)

    c = dict(dim=16, n_layers=3, n_heads=2, hidden_dim=40, vocab_size=size, max_position_embeddings=64, activation="gelu",
             sinusoidal_pos_embds=False, pad_token_id=0, model_type="distilbert")
    model = shake(transformers.DistilBertModel(transformers.DistilBertConfig(**c, **eager)))
    write("tiny-distilbert", model, c, BERT_SPECIALS, ["[CLS]", "A", "[SEP]"], "mean", rename=lambda n: "distilbert." + n)

    c = dict(COMMON, vocab_size=size, max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2, hidden_act="gelu",
             layer_norm_eps=1e-5, relative_attention_num_buckets=32, model_type="mpnet")
    specials, single = ["<s>", "<pad>", "</s>", "<unk>"], ["<s>", "A", "</s>"]
    model = shake(transformers.MPNetModel(transformers.MPNetConfig(**c, **eager)))
    write("tiny-mpnet", model, c, specials, single, "mean")

    c = dict(COMMON, vocab_size=size, max_position_embeddings=64, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12,
             layer_norm_type="layer_norm", position_embedding_type="rope", rope_theta=10000.0,
             rope_scaling={"type": "ntk", "factor": 2.0}, logn_attention_scale=False, logn_attention_clip1=False, model_type="new")
    write("tiny-gte", shake(Gte(c)), c, BERT_SPECIALS, ["[CLS]", "A", "[SEP]"], "cls", rename=lambda n: "new." + n)

    c = dict(vocab_size=size, n_embd=16, n_head=2, n_layer=3, n_inner=40, n_positions=64, type_vocab_size=2,
             layer_norm_epsilon=1e-12, rotary_emb_fraction=1.0, rotary_emb_base=1000, rotary_emb_interleaved=False,
             rotary_emb_scale_base=None, rotary_scaling_factor=None, qkv_proj_bias=False, mlp_fc1_bias=False,
             mlp_fc2_bias=False, activation_function="swiglu", prenorm=False, causal=False, use_rms_norm=False,
             parallel_block=False, model_type="nomic_bert")
    write("tiny-nomic-bert", shake(Nomic(c)), c, BERT_SPECIALS, ["[CLS]", "A", "[SEP]"], "mean")


class Nomic(torch.nn.Module):
    """Nomic-BERT written from its paper and the published configuration: rotary positions on halves,
    gated SiLU, layer norm after each block."""

    def __init__(self, c):
        super().__init__()
        h, nn = c["n_embd"], torch.nn
        self.c = c
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(c["vocab_size"], h),
            "token_type_embeddings": nn.Embedding(c["type_vocab_size"], h),
        })
        self.emb_ln = nn.LayerNorm(h, eps=c["layer_norm_epsilon"])
        block = lambda: nn.ModuleDict({
            "attn": nn.ModuleDict({"Wqkv": nn.Linear(h, 3 * h, bias=False), "out_proj": nn.Linear(h, h, bias=False)}),
            "mlp": nn.ModuleDict({"fc11": nn.Linear(h, c["n_inner"], bias=False), "fc12": nn.Linear(h, c["n_inner"], bias=False),
                                  "fc2": nn.Linear(c["n_inner"], h, bias=False)}),
            "norm1": nn.LayerNorm(h, eps=c["layer_norm_epsilon"]),
            "norm2": nn.LayerNorm(h, eps=c["layer_norm_epsilon"]),
        })
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([block() for _ in range(c["n_layer"])])})

    def forward(self, input_ids):
        c, (_, length) = self.c, input_ids.shape
        heads, dim = c["n_head"], c["n_embd"] // c["n_head"]
        x = self.embeddings["word_embeddings"](input_ids) + self.embeddings["token_type_embeddings"](torch.zeros_like(input_ids))
        x = self.emb_ln(x)
        angles = torch.arange(length)[:, None] / c["rotary_emb_base"] ** (torch.arange(0, dim, 2) / dim)[None]
        cos, sin = (torch.cat([f, f], -1) for f in (angles.cos(), angles.sin()))
        turn = lambda t: t * cos + torch.cat([-t[..., dim // 2:], t[..., : dim // 2]], -1) * sin
        for block in self.encoder["layers"]:
            q, k, v = block["attn"]["Wqkv"](x).view(1, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
            scores = turn(q) @ turn(k).transpose(-1, -2) / dim**0.5
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, length, -1)
            x = block["norm1"](x + block["attn"]["out_proj"](mixed))
            y = block["mlp"]["fc11"](x) * torch.nn.functional.silu(block["mlp"]["fc12"](x))
            x = block["norm2"](x + block["mlp"]["fc2"](y))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)


class Gte(torch.nn.Module):
    """GTE v1.5 written from its published configuration: rotary positions on halves, stretched by NTK (base times the
    factor, angles divided by factor ** (2 / d)), gated GELU, layer norm after each block."""

    def __init__(self, c):
        super().__init__()
        h, nn = c["hidden_size"], torch.nn
        self.c = c
        norm = lambda: nn.LayerNorm(h, eps=c["layer_norm_eps"])
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(c["vocab_size"], h),
            "token_type_embeddings": nn.Embedding(c["type_vocab_size"], h),
            "LayerNorm": norm(),
        })
        block = lambda: nn.ModuleDict({
            "attention": nn.ModuleDict({"qkv_proj": nn.Linear(h, 3 * h), "o_proj": nn.Linear(h, h)}),
            "mlp": nn.ModuleDict({"up_gate_proj": nn.Linear(h, 2 * c["intermediate_size"], bias=False), "down_proj": nn.Linear(c["intermediate_size"], h)}),
            "attn_ln": norm(),
            "mlp_ln": norm(),
        })
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([block() for _ in range(c["num_hidden_layers"])])})

    def forward(self, input_ids):
        c, (_, length) = self.c, input_ids.shape
        heads, dim = c["num_attention_heads"], c["hidden_size"] // c["num_attention_heads"]
        e = self.embeddings
        x = e["LayerNorm"](e["word_embeddings"](input_ids) + e["token_type_embeddings"](torch.zeros_like(input_ids)))
        factor = c["rope_scaling"]["factor"]
        frequencies = (c["rope_theta"] * factor) ** -(torch.arange(0, dim, 2) / dim) / factor ** (2 / dim)
        angles = torch.arange(length)[:, None] * frequencies[None]
        cos, sin = (torch.cat([f, f], -1) for f in (angles.cos(), angles.sin()))
        turn = lambda t: t * cos + torch.cat([-t[..., dim // 2:], t[..., : dim // 2]], -1) * sin
        for block in self.encoder["layer"]:
            q, k, v = block["attention"]["qkv_proj"](x).view(1, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
            scores = turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(dim)
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, length, -1)
            x = block["attn_ln"](x + block["attention"]["o_proj"](mixed))
            up, gate = block["mlp"]["up_gate_proj"](x).chunk(2, -1)
            x = block["mlp_ln"](x + block["mlp"]["down_proj"](torch.nn.functional.gelu(gate) * up))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)


main()
