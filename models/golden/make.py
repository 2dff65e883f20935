"""Makes the golden vectors of all-MiniLM-L6-v2 with the reference implementation.

    pip install sentence-transformers
    python models/golden/make.py DIRECTORY_OF_THE_MODEL

The model's directory is what `regrow models` fetches. Vectors are little-endian 32-bit floats in base64.
"""

import base64
import json
import pathlib
import sys

import numpy
import sentence_transformers
import torch
import transformers

HERE = pathlib.Path(__file__).parent

CODE = """fn main() {
    let mut total = 0_u64;
    for (i, x) in [3_u64, 1, 4, 1, 5].iter().enumerate() {
        total += x * (i as u64 + 1); // weighted
    }
    println!("{total:>8}");
}
"""

WORDS = (
    "The corpus is the backup and the vectors are derived from it on a schedule so that every index "
    "can be rebuilt when the account the region or the provider is gone "
)

TEXTS = [
    "a",
    " ",
    ".",
    "Rebuild a vector database from its source documents.",
    "How do I restore a collection after a bad write?",
    "Grüße aus München: naïve café, coöperate, Ærøskøbing.",
    "日本語の文章と中文句子 mixed with English, and العربية too.",
    "emoji 🚀🔥 and combining e\u0301, zero\u200bwidth, \u00a0nbsp",
    CODE,
    "| kind | load | index |\n| --- | --- | --- |\n| embedded | in process | at the end |\n",
    "antidisestablishmentarianism 0123456789 https://example.org/a/b?c=d&e=f#g user@example.org",
    " ".join([WORDS] * 4)[:600],
    # As many tokens as the model takes: 254 words of one token each, and two special tokens.
    " ".join((WORDS * 10).split()[:254]),
]


def main():
    directory = sys.argv[1]
    torch.set_num_threads(1)
    model = sentence_transformers.SentenceTransformer(directory, device="cpu")
    assert model.max_seq_length == 256, model.max_seq_length
    records = []
    for text in TEXTS:
        # One at a time: no padding can have a part in it.
        vector = model.encode([text], convert_to_numpy=True)[0].astype("<f4")
        ids = model.tokenizer(text, truncation=True, max_length=256)["input_ids"]
        assert abs(numpy.linalg.norm(vector) - 1) < 1e-5
        records.append(
            {"text": text, "tokens": len(ids), "vector": base64.b64encode(vector.tobytes()).decode()}
        )
    out = {
        "model": "all-MiniLM-L6-v2",
        "made_with": {
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "texts": records,
    }
    (HERE / "all-MiniLM-L6-v2.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
    print([r["tokens"] for r in records])


main()
