"""Loads made-up points into a database with the client that its users would take, and prints how long it took.

    python -m pip install chromadb numpy
    regrow bench load -p PIPELINE --peer "python benches/peers/load.py --target chroma --url http://127.0.0.1:8000"

`regrow bench load` runs it in turns with its own load and prints the median ratio; it says in REGROW_BENCH_POINTS, _DIMENSION,
_WRITERS and _INDEX what to load. The server runs already, and is otherwise idle. Each peer loads as its documentation advises for bulk, from as many
threads or processes as regrow has writers. Points are made before the clock starts, which ends when they can be counted.

- chroma: `upsert` of the official client in the largest batches that the server takes (or `--batch`), documents and metadata with them.
- pgvector: files in PostgreSQL's binary format, written before the clock starts, and one `psql -c '\\copy …'` per writer into an unlogged
  table with a primary key, as regrow's own table; then `CREATE INDEX … USING hnsw` without parallel workers.
"""

import argparse
import json
import os
import struct
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np

POINTS = int(os.environ.get("REGROW_BENCH_POINTS", "20000"))
DIMENSION = int(os.environ.get("REGROW_BENCH_DIMENSION", "384"))
WRITERS = int(os.environ.get("REGROW_BENCH_WRITERS", "4"))
INDEX = os.environ.get("REGROW_BENCH_INDEX", "1") == "1"


# As regrow's pipelines have it where they say nothing else.
HNSW = {"space": "ip", "max_neighbors": 16, "ef_construction": 128}


def text(n):
    return f"Text of point {n}. " * 20


def fields(n):
    """A point's payload, flat."""
    return {
        "document_id": f"doc-{n // 7}.md", "ordinal": n % 7, "tenant": "abc"[n % 3], "acl": [f"group-{n % 5}"],
        "metadata.year": 1990 + n % 40, "metadata.score": (n % 17) / 4, "metadata.draft": n % 5 == 0,
    }


def payload(n):
    """A point's payload, as regrow has it."""
    return {
        "document_id": f"doc-{n // 7}.md", "ordinal": n % 7, "tenant": "abc"[n % 3], "acl": [f"group-{n % 5}"],
        "text": text(n), "metadata": {"year": 1990 + n % 40, "score": (n % 17) / 4, "draft": n % 5 == 0},
    }


def in_threads(write, batch):
    """Seconds of `write(start, end)` over all points, from as many threads as regrow has writers."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda start: write(start, min(start + batch, POINTS)), range(0, POINTS, batch)))
    return time.perf_counter() - begin


def chroma(arguments, vectors):
    import chromadb

    host, port = arguments.url.removeprefix("http://").split(":")
    client = chromadb.HttpClient(host=host, port=int(port))
    collection = client.create_collection(f"peer-{uuid.uuid4().hex}", configuration={"hnsw": HNSW})

    def write(start, end):
        collection.upsert(
            ids=[str(uuid.uuid4()) for _ in range(start, end)],
            embeddings=vectors[start:end],
            metadatas=[fields(n) for n in range(start, end)],
            documents=[text(n) for n in range(start, end)],
        )

    seconds = in_threads(write, min(client.get_max_batch_size(), arguments.batch or 10**9))
    assert collection.count() == POINTS
    client.delete_collection(collection.name)
    return {"load_seconds": seconds}


def pgvector(arguments, vectors):
    table = f"peer_{uuid.uuid4().hex[:12]}"

    def sql(*statements):
        command = [arguments.psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", arguments.url]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def row(n):
        values = [
            uuid.uuid4().bytes, "abc"[n % 3].encode(),
            struct.pack(">hh", DIMENSION, 0) + vectors[n].astype(">f4").tobytes(),
            b"\1" + json.dumps(payload(n), separators=(",", ":")).encode(),
        ]
        return struct.pack(">h", len(values)) + b"".join(struct.pack(">i", len(v)) + v for v in values)

    with tempfile.TemporaryDirectory() as folder:
        files, step = [], -(-POINTS // WRITERS)
        for start in range(0, POINTS, step):
            files.append(f"{folder}/{start}.copy")
            with open(files[-1], "wb") as out:
                out.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
                out.writelines(row(n) for n in range(start, min(start + step, POINTS)))
                out.write(struct.pack(">h", -1))
        sql("SET client_min_messages = warning", "CREATE EXTENSION IF NOT EXISTS vector")
        sql(f"CREATE UNLOGGED TABLE {table} (id uuid PRIMARY KEY, tenant text NOT NULL, "
            f"embedding vector({DIMENSION}) NOT NULL, payload jsonb NOT NULL)")
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(lambda file: sql(f"\\copy {table} FROM '{file}' WITH (FORMAT binary)"), files))
        took = {"load_seconds": time.perf_counter() - begin}
        assert sql(f"SELECT count(*) FROM {table}") == str(POINTS)
        if INDEX:
            begin = time.perf_counter()
            sql("SET maintenance_work_mem = '1GB'", "SET max_parallel_maintenance_workers = 0",
                f"CREATE INDEX ON {table} USING hnsw (embedding vector_ip_ops) WITH (m = 16, ef_construction = 128)")
            took["index_seconds"] = time.perf_counter() - begin
        sql(f"DROP TABLE {table}")
    return took


PEERS = {"chroma": chroma, "pgvector": pgvector}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=PEERS, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--batch", type=int, help="points in one request; what the server takes when absent")
    parser.add_argument("--psql", default="psql", help="PostgreSQL's client")
    arguments = parser.parse_args()
    vectors = np.random.default_rng(1).uniform(-1, 1, (POINTS, DIMENSION)).astype("float32")
    print(json.dumps(PEERS[arguments.target](arguments, vectors)))


if __name__ == "__main__":
    main()
