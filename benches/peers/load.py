"""Loads the same vectors with regrow and with a database's own Python client, in turns.

    python -m pip install chromadb numpy
    python benches/peers/load.py --target chroma --url http://127.0.0.1:8000 [--points 20000] [--dimension 384] [--rounds 3]

The server runs already, and is otherwise idle. The peer loads as its documentation advises: `upsert` in the largest batches that
the server takes, with documents and metadata, from as many threads as regrow has writers. regrow loads through its own
example, `cargo run --release --example load`, which prints seconds. What counts is the median over the rounds of
regrow's speed divided by the peer's in the same round; each round loads into fresh collections, in the order A B, B A, ...
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]


def payload(n):
    return {
        "document_id": f"doc-{n // 7}.md", "ordinal": n % 7, "tenant": "abc"[n % 3], "acl": [f"group-{n % 5}"],
        "metadata.year": 1990 + n % 40, "metadata.score": (n % 17) / 4, "metadata.draft": n % 5 == 0,
    }


def chroma(arguments, vectors):
    import chromadb

    host, port = arguments.url.removeprefix("http://").split(":")
    client = chromadb.HttpClient(host=host, port=int(port))
    collection = client.create_collection(f"peer-{uuid.uuid4().hex}", configuration={"hnsw": {"space": "ip"}})
    most = min(client.get_max_batch_size(), arguments.batch or 10**9)

    def write(start):
        numbers = range(start, min(start + most, len(vectors)))
        collection.upsert(
            ids=[str(uuid.UUID(int=n)) for n in numbers],
            embeddings=vectors[start:start + most],
            metadatas=[payload(n) for n in numbers],
            documents=[f"Text of point {n}. " * 20 for n in numbers],
        )

    begin = time.perf_counter()
    with ThreadPoolExecutor(arguments.writers) as pool:
        list(pool.map(write, range(0, len(vectors), most)))
    seconds = time.perf_counter() - begin
    assert collection.count() == len(vectors)
    client.delete_collection(collection.name)
    return seconds


PEERS = {"chroma": chroma}


def regrow(arguments):
    command = [arguments.regrow, arguments.target, arguments.url, str(arguments.points), str(arguments.dimension)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said)["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=PEERS, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--points", type=int, default=20000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--batch", type=int, help="points in one request of the peer; what its server takes when absent")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--regrow", default=str(target / "release/examples/load"))
    arguments = parser.parse_args()

    import numpy as np

    vectors = np.random.default_rng(1).standard_normal((arguments.points, arguments.dimension)).astype("float32")
    peer = PEERS[arguments.target]
    ratios = []
    for number in range(arguments.rounds):
        turns = {"peer": lambda: peer(arguments, vectors), "regrow": lambda: regrow(arguments)}
        order = ["peer", "regrow"] if number % 2 == 0 else ["regrow", "peer"]
        seconds = {name: turns[name]() for name in order}
        ratios.append(seconds["peer"] / seconds["regrow"])
        speeds = ", ".join(f"{name} {arguments.points / seconds[name]:,.0f} points/s" for name in seconds)
        print(f"round {number + 1}: {speeds}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
