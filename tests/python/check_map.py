#!/usr/bin/env python3
"""Holds the maps of a report against scikit-learn's of the same features.

    check_map.py --program P RUN

The features of the pictures on the map come from `embed --split test`, the maps from the page that `report` writes. PCA must be
scikit-learn's up to the scale and rounding of the page; t-SNE must keep neighbours as well as scikit-learn's does (trustworthiness).
Needs numpy, scikit-learn. Written for a run whose test split has at most 2,000 pictures.
"""
import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--program", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page, features = Path(folder, "report.html"), Path(folder, "features.npy")
        run = lambda *words: subprocess.run([args.program, *words], check=True, capture_output=True)
        run("embed", "--checkpoint", args.run, "--split", "test", "--normalize", "--out", str(features))
        run("report", args.run, "--out", str(page))
        html, rows = page.read_text(), np.load(features).astype(np.float64)
    told = json.loads(re.search(r'<script id="map-data" type="application/json">(.*?)</script>', html, re.S)[1])
    maps = {view["method"]: np.array(view["points"], float) for view in told["views"] if view["encoder"] == "trained"}
    assert len(rows) == len(maps["PCA"]), f"{len(rows)} test pictures, {len(maps['PCA'])} on the map"

    wanted = PCA(2, svd_solver="full").fit_transform(rows)
    distances = lambda points: np.linalg.norm(points[:, None] - points[None], axis=-1)
    ours, theirs = distances(maps["PCA"]), distances(wanted)
    difference = np.abs(ours / ours.max() - theirs / theirs.max()).max()
    print(f"PCA: distances differ by at most {difference:.5f} of the largest")
    assert difference < 0.005, "the page rounds to a thousandth of the width"

    sklearn = TSNE(init="pca", learning_rate="auto", perplexity=30, random_state=0)
    fitted = sklearn.fit_transform(rows)
    # As the page has points: rounded to a thousandth of the width.
    fitted = np.round(1000 * (fitted - fitted.min(0)) / np.ptp(fitted, axis=0).max())
    scores = {name: trustworthiness(rows, points, n_neighbors=12) for name, points in [("ours", maps["t-SNE"]), ("scikit-learn", fitted)]}
    print("t-SNE, trustworthiness of 12 neighbours:", {name: round(float(score), 4) for name, score in scores.items()})
    assert scores["ours"] > scores["scikit-learn"] - 0.005
    for k in (1, 5, 15):
        near = lambda points: np.argsort(distances(points), axis=1)[:, 1 : k + 1]
        true = near(rows)
        kept = {name: np.mean([len(set(a) & set(b)) / k for a, b in zip(true, near(points))]) for name, points in [("ours", maps["t-SNE"]), ("scikit-learn", fitted)]}
        print(f"t-SNE, share of the {k} nearest kept:", {name: round(float(share), 4) for name, share in kept.items()})


if __name__ == "__main__":
    main()
