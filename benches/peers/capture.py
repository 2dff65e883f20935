#!/usr/bin/env python3
"""Captures the same files with regrow (mode "copy") and with restic, in turns, and prints medians of ratios.

    python3 benches/peers/capture.py --corpus DIR [--regrow target/release/regrow] [--rounds 3]

restic is a Debian package. Both write into fresh repositories on the same device, compress with zstd, and have the
files in the page cache; restic encrypts always, so regrow is measured with and without encryption. A snapshot also cuts
every document into chunks, which takes longer than keeping a copy of it, in the same pass over the same bytes. So three
things are shown: wall time of the whole commands; processor time of a snapshot in the mode "copy" less that of one in the
mode "reference" in the same round; and the work that the snapshot itself says it spent on the copy (hashing,
compressing, sealing, storing), as megabytes a second of one core beside restic's. Then nothing is changed and both run again;
last, `regrow verify` reads everything, beside a program that reads the same files and does nothing else.
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
    """Wall seconds, processor seconds, what was printed."""
    start, before = time.monotonic(), os.times()
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, used, done.stdout


def regrow(binary, corpus, directory, mode, encrypted=False):
    run([binary, "init", "--name", "bench", "--corpus", corpus], directory)
    sets = ["--set", f"capture.mode={mode}", "--set", 'corpus.include=["**/*"]', "--set", "corpus.on_bad_document=skip"]
    if encrypted:
        sets += ["--set", "repository.encryption.passphrase=env:BENCH_PASSPHRASE"]
    command = [binary, "snapshot", "--json", "--skip-target", *sets]
    runs = [run(command, directory, BENCH_PASSPHRASE="bench") for _ in range(2)]
    runs.append(run([binary, "verify", "--json", *sets], directory, BENCH_PASSPHRASE="bench"))
    return runs


def work(run):
    """Seconds of work on the copy, as the snapshot says."""
    return json.loads(run[2])["captured"]["busy_seconds"]


def reading(directory):
    """Megabytes, and seconds to read them from the page cache."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    start = time.monotonic()
    return sum(len(path.read_bytes()) for path in files) / 1e6, time.monotonic() - start


def restic(corpus, directory):
    variables = {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(directory / "restic")}
    run(["restic", "init"], directory, **variables)
    command = ["restic", "backup", "--compression", "auto", "--quiet", str(corpus)]
    return [run(command, directory, **variables) for _ in range(2)]


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
    rows = []
    for turn in range(options.rounds):
        scratch = pathlib.Path(tempfile.mkdtemp(dir=options.scratch))
        try:
            for name in "abcd":
                (scratch / name).mkdir()
            peer = restic(corpus, scratch / "a")
            plain = regrow(binary, corpus, scratch / "b", "reference")
            copied = regrow(binary, corpus, scratch / "c", "copy")
            sealed = regrow(binary, corpus, scratch / "d", "copy", encrypted=True)
            read = reading(scratch / "c" / ".regrow" / "repository")
            rows.append((peer, plain, copied, sealed, read))
        finally:
            shutil.rmtree(scratch)
    print("\n| round | restic | snapshot, reference | copy | copy, encrypted | restic again | copy again |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for turn, (peer, plain, copied, sealed, _) in enumerate(rows):
        cells = [peer[0], plain[0], copied[0], sealed[0], peer[1], copied[1]]
        print(f"| {turn + 1} | " + " | ".join(f"{wall:.2f} s ({used:.2f} s)" for wall, used, _ in cells) + " |")
    print("\nWall time, and in brackets processor time on all cores.")
    median = statistics.median
    for name, which in (("copy", 2), ("copy, encrypted", 3)):
        added = median(row[which][0][1] - row[1][0][1] for row in rows)
        theirs = median(row[0][0][1] for row in rows)
        if added <= 0:
            print(f"{name}: what capturing adds is less than the noise between runs; restic takes {theirs:.2f} s")
            continue
        print(f"{name}: capturing adds {added:.2f} s of processor time, restic takes {theirs:.2f} s: {theirs / added:.2f} x as fast")
    theirs = median(row[0][0][1] for row in rows)
    for name, which in (("copy", 2), ("copy, encrypted", 3)):
        ours = median(work(row[which][0]) for row in rows)
        print(f"{name}: {size / 1e6 / ours:.0f} MB/s of one core, restic {size / 1e6 / theirs:.0f} MB/s: {theirs / ours:.1f} x as fast")
    print(f"an unchanged corpus: {median(row[2][0][0] / row[2][1][0] for row in rows):.1f} x as fast as the first snapshot")
    megabytes, seconds = rows[-1][4]
    print(f"verify: {megabytes:.1f} MB in {median(row[2][2][0] for row in rows):.3f} s, reading alone {seconds:.3f} s")


if __name__ == "__main__":
    main()
