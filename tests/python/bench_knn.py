#!/usr/bin/env python3
"""Times the nearest neighbours of random features in scikit-learn (brute force), faiss and PyTorch, beside the program.

    bench_knn.py [--program target/release/simclr-train] [--bank 50000] [--queries 10000] [--dim 2048] [--k 200] [--turns 3]

In turns, medians; each finds the k nearest by cosine, the program votes too. Needs torch, scikit-learn, faiss-cpu, numpy.
"""
import argparse
import json
import subprocess
import time
from statistics import median

import faiss
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program")
    for name, default in [("bank", 50_000), ("queries", 10_000), ("dim", 2_048), ("k", 200), ("turns", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    unit = lambda rows: (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(rng.standard_normal((rows, args.dim), np.float32))
    bank, queries = unit(args.bank), unit(args.queries)

    def sklearn() -> None:
        # Of unit vectors the nearest by distance are the nearest by cosine; its cosine metric is slower.
        NearestNeighbors(n_neighbors=args.k, algorithm="brute").fit(bank).kneighbors(queries)

    def faiss_flat() -> None:
        index = faiss.IndexFlatIP(args.dim)
        index.add(bank)
        index.search(queries, args.k)

    def pytorch() -> None:
        # In parts, as the course does: all similarities would be 2 GB.
        rows, memory = torch.from_numpy(queries), torch.from_numpy(bank)
        for part in rows.split(1000):
            (part @ memory.T).topk(args.k, dim=1)

    def program() -> float:
        command = [args.program, "bench", "knn", "--steps", "1", "--json"]
        for name in ["bank", "queries", "dim", "k"]:
            command += [f"--{name}", str(getattr(args, name))]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])["s"]

    times: dict[str, list[float]] = {}
    for _ in range(args.turns):
        for name, run in [("scikit-learn", sklearn), ("faiss", faiss_flat), ("pytorch", pytorch)]:
            began = time.perf_counter()
            run()
            times.setdefault(name, []).append(time.perf_counter() - began)
        if args.program:
            times.setdefault("program", []).append(program())
    for name, seconds in times.items():
        print(f"{name:13} {median(seconds):7.2f} s", [round(s, 2) for s in seconds])


if __name__ == "__main__":
    main()
