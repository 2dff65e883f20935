#!/usr/bin/env python3
"""Captures the same files with regrow (mode "copy") and with restic, in turns, and prints medians of ratios.

    python3 benches/peers/capture.py --corpus DIR [--regrow target/release/regrow] [--rounds 3]

restic is a Debian package. Both write into fresh repositories on the same device, compress with zstd, and have the
files in the page cache; restic encrypts always, so regrow is measured with and without encryption. restic's time is
that of the whole `restic backup`; regrow's is that of the capture alone (listing, reading, hashing, cutting large
files, compressing, storing, syncing), which a snapshot finishes before it cuts documents into chunks, and the whole
snapshot stands beside it. Then nothing is changed and both run again.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time


def run(command, cwd, **variables):
    start = time.monotonic()
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return time.monotonic() - start, done.stdout


def regrow(binary, corpus, directory, encrypted):
    run([binary, "init", "--name", "bench", "--corpus", corpus], directory)
    sets = ["--set", "capture.mode=copy", "--set", 'corpus.include=["**/*"]', "--set", "corpus.on_bad_document=skip"]
    if encrypted:
        sets += ["--set", "repository.encryption.passphrase=env:BENCH_PASSPHRASE"]
    results = []
    for _ in range(2):
        seconds, out = run([binary, "snapshot", "--json", "--skip-target", *sets], directory, BENCH_PASSPHRASE="bench")
        results.append((seconds, json.loads(out)))
    return results


def restic(corpus, directory):
    variables = {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(directory / "restic")}
    run(["restic", "init"], directory, **variables)
    command = ["restic", "backup", "--compression", "auto", "--quiet", str(corpus)]
    return [run(command, directory, **variables)[0] for _ in range(2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--regrow", default="target/release/regrow", type=pathlib.Path)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--scratch", default=None, help="directory for the repositories")
    options = parser.parse_args()
    corpus, binary = options.corpus.resolve(), options.regrow.resolve()
    files = [path for path in corpus.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    for path in files:
        path.read_bytes()
    print(f"{len(files)} files, {size / 1e6:.1f} MB")
    rows, ratios = [], {"plain": [], "encrypted": [], "unchanged": []}
    for turn in range(options.rounds):
        scratch = pathlib.Path(tempfile.mkdtemp(dir=options.scratch))
        try:
            for name in ("a", "b", "c"):
                (scratch / name).mkdir()
            peer = restic(corpus, scratch / "a")
            plain = regrow(binary, corpus, scratch / "b", False)
            sealed = regrow(binary, corpus, scratch / "c", True)
            capture = [r[0][1]["seconds"]["capture"] for r in (plain, sealed)]
            ratios["plain"].append(peer[0] / capture[0])
            ratios["encrypted"].append(peer[0] / capture[1])
            ratios["unchanged"].append(plain[0][0] / plain[1][0])
            rows.append((turn, peer[0], capture[0], capture[1], plain[0][0], peer[1], plain[1][0]))
        finally:
            shutil.rmtree(scratch)
    print("\n| round | restic, s | regrow capture, s | the same encrypted, s | whole snapshot, s | restic again, s | snapshot again, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join([str(row[0] + 1), *(f"{value:.2f}" for value in row[1:])]) + " |")
    rate = size / 1e6
    print(f"\nregrow captures at {rate / statistics.median(r[2] for r in rows):.0f} MB/s, restic at {rate / statistics.median(r[1] for r in rows):.0f} MB/s")
    print(f"capture is {statistics.median(ratios['plain']):.2f} x as fast as restic, encrypted {statistics.median(ratios['encrypted']):.2f} x")
    print(f"a snapshot of the unchanged corpus is {statistics.median(ratios['unchanged']):.1f} x as fast as the first")


if __name__ == "__main__":
    main()
