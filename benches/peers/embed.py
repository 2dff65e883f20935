"""Runs other engines and regrow on the same texts, in turns, tokenising inside every timing.

    python -m pip install sentence-transformers onnxruntime onnx onnxscript openvino
    python -m pip install llama-cpp-python gguf    # builds llama.cpp
    python benches/peers/embed.py --model DIR [--shape bert-base] [--tokens mixed,32,120] [--texts 200] [--rounds 3]

On an NVIDIA GPU, with a binary that was built with `--features cuda`, against sentence-transformers there:

    python benches/peers/embed.py --model DIR --device cuda:0 --shape bge-large --tokens 32,128,512 --texts 20000

DIR has the files of all-MiniLM-L6-v2 (`regrow models fetch all-MiniLM-L6-v2` says where they are). With --shape the weights
are random and the tokenizer is the model's; then vectors are not compared, only speed. Texts are cut from this project's
documents. Engines take turns (A B C, A B C, ...); a turn waits until nothing else runs on the machine. What counts is the
median over the rounds of regrow's speed divided by the engine's in the same round. An engine that is not installed is
named and left out. Every engine sorts texts by length and runs padded batches of the size that it was fastest with here.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import numpy as np
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = {"bert-base": (12, 768, 12, 3072), "bge-large": (24, 1024, 16, 4096)}
CORES = len(os.sched_getaffinity(0))


def busy():
    f = list(map(int, open("/proc/stat").readline().split()[1:]))
    return (f[0] + f[1] + f[2] + f[5] + f[6] + f[7]) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(limit=20):
    end = time.time() + limit
    while time.time() < end:
        before = busy()
        time.sleep(0.3)
        if busy() - before < 0.05:
            return


def cut(tokenizer, wanted, count):
    """Texts of so many tokens, or of lengths as chunks of documents have them: most near 100, some much longer."""
    draw = random.Random(7)
    text = "".join((ROOT / f).read_text() for f in ("README.md", "ARCHITECTURE.md", "docs/format.md", "CONTRIBUTING.md"))
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    out = []
    for i in range(count):
        tokens = min(256, max(20, int(draw.lognormvariate(4.65, 0.65)))) if wanted == "mixed" else int(wanted)
        start, n = i * 7919 % (len(offsets) - tokens), tokens - 2
        while len(tokenizer.encode(piece := text[offsets[start][0]:offsets[start + n - 1][1]]).ids) > tokens:
            n -= 1
        out.append(piece)
    return out


def pooled(hidden, mask):
    weights = mask[..., None].astype(np.float32)
    vectors = (hidden * weights).sum(1) / weights.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Padded:
    """Tokenises, sorts by length, pads batches, pools and normalises around a forward function."""

    def __init__(self, tokenizer, size):
        self.tokenizer, self.size = tokenizer, size

    def batches(self, texts):
        encodings = self.tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: -len(encodings[i].ids))
        for i in range(0, len(order), self.size):
            rows = order[i:i + self.size]
            length = max(len(encodings[j].ids) for j in rows)
            ids, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
            for r, j in enumerate(rows):
                n = len(encodings[j].ids)
                ids[r, :n], mask[r, :n] = encodings[j].ids, 1
            yield rows, ids, mask

    def embed(self, texts):
        out = {}
        for rows, ids, mask in self.batches(texts):
            out.update(zip(rows, pooled(self.forward(ids, mask), mask)))
        return np.stack([out[j] for j in range(len(texts))])


class Onnx(Padded):
    def __init__(self, tokenizer, size, path):
        import onnxruntime
        super().__init__(tokenizer, size)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = CORES
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, ids, mask):
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]


class OpenVino(Padded):
    """Streams of requests, as its throughput hint arranges them."""

    def __init__(self, tokenizer, size, path, precision):
        import openvino
        super().__init__(tokenizer, size)
        self.openvino = openvino
        settings = {"INFERENCE_NUM_THREADS": CORES, "PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
        core = openvino.Core()
        self.model = core.compile_model(core.read_model(path), "CPU", settings)

    def embed(self, texts):
        out = {}

        def done(request, state):
            rows, mask = state
            out.update(zip(rows, pooled(request.get_output_tensor(0).data, mask)))

        queue = self.openvino.AsyncInferQueue(self.model, int(self.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        queue.set_callback(done)
        for rows, ids, mask in self.batches(texts):
            queue.start_async({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}, (rows, mask))
        queue.wait_all()
        return np.stack([out[j] for j in range(len(texts))])


class LlamaCpp:
    """All texts of a call go through llama.cpp's own batching; its tokenizer is its own."""

    def __init__(self, path):
        import llama_cpp
        self.model = llama_cpp.Llama(path, embedding=True, n_ctx=4096, n_batch=4096, n_ubatch=4096, n_threads=CORES,
                                     n_threads_batch=CORES, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN, verbose=False)

    def embed(self, texts):
        return np.asarray(self.model.embed(texts, normalize=True), np.float32)


def write_gguf(directory, path, kind):
    """A BERT for llama.cpp: large matrices in f16 or 8-bit blocks, the rest in f32."""
    import gguf
    import transformers
    model = transformers.AutoModel.from_pretrained(directory).eval()
    config, state = model.config, {n: t.float().numpy() for n, t in model.state_dict().items()}
    tokens = [t for t, _ in sorted(json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"].items(), key=lambda p: p[1])]
    file = gguf.GGUFWriter(path, "bert")
    file.add_block_count(config.num_hidden_layers)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_layer_norm_eps(config.layer_norm_eps)
    file.add_causal_attention(False)
    file.add_pooling_type(gguf.PoolingType.MEAN)
    file.add_tokenizer_model("bert")
    file.add_token_list([t[2:] if t.startswith("##") else t if t.startswith("[") and t.endswith("]") else "\u2581" + t for t in tokens])
    file.add_token_types([3 if t.startswith("[") and t.endswith("]") else 1 for t in tokens])
    file.add_token_type_count(2)
    for name, set_id in (("[CLS]", file.add_bos_token_id), ("[SEP]", file.add_sep_token_id), ("[UNK]", file.add_unk_token_id), ("[PAD]", file.add_pad_token_id)):
        set_id(tokens.index(name))
    embeddings = {"word_embeddings": "token_embd", "position_embeddings": "position_embd", "token_type_embeddings": "token_types", "LayerNorm": "token_embd_norm"}
    layers = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
              "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
    for name, tensor in state.items():
        if name.startswith("pooler") or "position_ids" in name:
            continue
        rest, part = name.rsplit(".", 1)
        if rest.startswith("embeddings."):
            place = embeddings[rest.removeprefix("embeddings.")]
        else:
            _, _, i, rest = rest.split(".", 3)
            place = f"blk.{i}.{layers[rest]}"
        if tensor.ndim == 2 and "token_types" not in place and "position" not in place:
            target = gguf.GGMLQuantizationType.Q8_0 if kind == "int8" else gguf.GGMLQuantizationType.F16
            file.add_tensor(f"{place}.{part}", gguf.quants.quantize(tensor, target), raw_dtype=target)
        else:
            file.add_tensor(f"{place}.{part}", tensor)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


class SentenceTransformers:
    def __init__(self, directory, size, dtype, device="cpu"):
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        torch.set_num_threads(CORES)
        body = Transformer(str(directory), max_seq_length=512, model_kwargs={"dtype": getattr(torch, dtype)})
        self.model, self.size = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device=device), size

    def embed(self, texts):
        out = self.model.encode(texts, batch_size=self.size, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        return out.float().cpu().numpy()


class Regrow:
    """A process of its own; what it measured itself counts, which leaves out loading the model, as for the others."""

    def __init__(self, binary, directory, shape, dtype, device):
        self.command = [binary, "bench", "embed", "--json", "--rounds", "1", "--dtype", dtype, "--source", str(directory)]
        self.command += ["--device", device]
        self.command += ["--shape", shape] if shape else []

    def seconds(self, path):
        done = subprocess.run(self.command + ["--input", path], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["embed"][0]["seconds"][0]


def prepare(directory, shape, folder, export):
    """The network for the others: a directory for transformers and an ONNX file, and one in 8 bits."""
    import torch
    import transformers
    if shape:
        layers, hidden, heads, inner = SHAPES[shape]
        config = transformers.BertConfig(vocab_size=30522, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "model")
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
            if (directory / name).exists():
                (folder / "model" / name).write_bytes((directory / name).read_bytes())
        directory = folder / "model"
    if not export:
        return directory, None
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    ids = torch.randint(5, 1000, (2, 16))
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    batch, length = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("length", min=2, max=512)
    path = str(folder / "model.onnx")
    torch.onnx.export(Whole(), (ids, torch.ones_like(ids), torch.zeros_like(ids)), path, input_names=list(inputs),
                      output_names=["last_hidden_state"], dynamic_shapes=({0: batch, 1: length},) * 3, dynamo=True)
    return directory, path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--regrow", default="target/release/regrow")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--only", default="", help="engines whose names contain this")
    parser.add_argument("--tokens", default="mixed,32,120,256")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    folder = pathlib.Path(tempfile.mkdtemp())
    on_cpu = args.device == "cpu"
    directory, onnx = prepare(args.model, args.shape, folder, on_cpu)

    def quantised():
        from onnxruntime.quantization import quantize_dynamic
        path = str(folder / "int8.onnx")
        quantize_dynamic(onnx, path)
        return path

    makers = {
        "sentence-transformers f32": lambda: SentenceTransformers(directory, 16, "float32"),
        "sentence-transformers bf16": lambda: SentenceTransformers(directory, 16, "bfloat16"),
        "ONNX Runtime f32": lambda: Onnx(tokenizer, 8, onnx),
        "ONNX Runtime int8": lambda: Onnx(tokenizer, 8, quantised()),
        "OpenVINO f32": lambda: OpenVino(tokenizer, 4, onnx, "f32"),
        "OpenVINO bf16": lambda: OpenVino(tokenizer, 4, onnx, "bf16"),
        # Half precision of its own against ours, and 8 bits against 8 bits.
        "llama.cpp f16 against bf16": lambda: LlamaCpp(write_gguf(directory, str(folder / "f16.gguf"), "f16")),
        "llama.cpp q8_0 against int8": lambda: LlamaCpp(write_gguf(directory, str(folder / "int8.gguf"), "int8")),
    } if on_cpu else {
        f"sentence-transformers {dtype}": lambda torch=torch: SentenceTransformers(directory, 256, torch, args.device)
        for dtype, torch in (("f32", "float32"), ("bf16", "bfloat16"), ("f16", "float16"))
    }
    makers = {name: make for name, make in makers.items() if args.only in name}
    engines = {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except Exception as e:  # an engine that does not run here is named, not hidden
            print(f"left out: {name}: {type(e).__name__}: {str(e)[:200]}")
    wanted = {name.rsplit(" ", 1)[1] for name in engines}
    ours = {dtype: Regrow(args.regrow, args.model, args.shape, dtype, args.device) for dtype in sorted(wanted)}

    print("| tokens | engine | texts/s | regrow, same format, texts/s | regrow is faster by | cosine, least |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tokens in args.tokens.split(","):
        texts = cut(tokenizer, tokens, args.texts)
        path = str(folder / f"{tokens}.jsonl")
        pathlib.Path(path).write_text("".join(json.dumps(t) + "\n" for t in texts))
        for engine in engines.values():
            engine.embed(texts[:32])
        times, vectors = {}, {}
        for _ in range(args.rounds):
            for name, engine in engines.items():
                wait_until_quiet()
                start = time.perf_counter()
                vectors[name] = engine.embed(texts)
                times.setdefault(name, []).append(time.perf_counter() - start)
            for dtype, engine in ours.items():
                wait_until_quiet()
                times.setdefault(dtype, []).append(engine.seconds(path))
        for name in engines:
            dtype = name.rsplit(" ", 1)[1]
            ratio = statistics.median(t / o for t, o in zip(times[name], times[dtype]))
            speed = lambda t: len(texts) / statistics.median(t)
            exact = vectors.get("sentence-transformers f32")
            least = f"{(vectors[name] * exact).sum(1).min():.5f}" if exact is not None and not args.shape else ""
            print(f"| {tokens} | {name} | {speed(times[name]):.1f} | {speed(times[dtype]):.1f} | {ratio:.2f} x | {least} |", flush=True)


main()
