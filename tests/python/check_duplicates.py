#!/usr/bin/env python3
"""How many planted copies `duplicates` finds: pictures as files, some of them again after a change, embedded and compared.

    check_duplicates.py --program target/debug/simclr-train --checkpoint RUN --data-dir DIR
    check_duplicates.py --program target/debug/simclr-train --rows 100000

with a Python that has numpy and pillow. The first form needs cifar-10-batches-bin in DIR. Of the test split, which no training sees, it saves
`--pictures` pictures, and of each of the first of them one changed copy. It prints the recall of every change (the share of its copies
that are in a group with their original), and how many of the pairs in one group, and of the groups, were planted. CIFAR-10 has
near-duplicates of its own, which count as wrong here; `--show` lists what was found beside what was planted.

The second form makes rows like features, without pictures: 128 numbers that are not below 0, around a hundred directions; a hundredth
of them are others with a little noise. It prints time, peak memory and which of these pairs were found.
"""
import argparse
import io
import json
import resource
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    memory = io.BytesIO()
    picture.save(memory, "jpeg", quality=quality)
    return Image.open(io.BytesIO(memory.getvalue()))


def resized(picture: Image.Image, share: float) -> Image.Image:
    width, height = picture.size
    return picture.resize((round(share * width), round(share * height)), Image.Resampling.LANCZOS).resize((width, height), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    width, height = picture.size
    x, y = width * (1 - share) / 2, height * (1 - share) / 2
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, width - x, height - y))


CHANGES = {
    "none (the same bytes)": lambda picture: picture,
    "JPEG, quality 90": lambda picture: jpeg(picture, 90),
    "JPEG, quality 50": lambda picture: jpeg(picture, 50),
    "resized to 3/4 and back": lambda picture: resized(picture, 0.75),
    "brightness 1.2": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped to 90 %": lambda picture: cropped(picture, 0.9),
    "gray": lambda picture: picture.convert("L").convert("RGB"),
}


def random_rows(asked: argparse.Namespace, program: Path) -> None:
    draws = np.random.default_rng(0)
    n, d, twins = asked.rows, 128, asked.rows // 100
    rows = draws.standard_normal((n, d), np.float32)
    rows += 1.5 * draws.standard_normal((100, d), np.float32)[draws.integers(0, 100, n)]
    np.maximum(rows, 0, out=rows)
    places = draws.permutation(n)[: 2 * twins]
    originals, copies = places[:twins], places[twins:]
    noise = np.float32(0.3) * draws.random((twins, 1), np.float32)
    rows[copies] = np.maximum(rows[originals] + noise * draws.standard_normal((twins, d), np.float32), 0)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", rows)
        flags = [word for name in ("threads", "exact_up_to") if (value := getattr(asked, name)) is not None for word in (f"--{name.replace('_', '-')}", value)]
        began = time.monotonic()
        said = run(program, "duplicates", "--features", Path(folder) / "rows.npy", *flags, *(["--threshold", asked.threshold[0]] if asked.threshold else []))
        seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{n} rows of {d}: {seconds:.1f} s, {peak:.0f} MiB, {said['method']}, {said['comparisons']} comparisons, reading included")
    print(f"threshold {said['threshold']:.4f}, usual cosine {said['usual_cosine']:.4f}, {len(said['groups'])} groups, measured by itself: {said['recall']}")
    for count in said["counts"]:
        print(f"   {count['threshold']:.4f}: {count['pairs']} pairs, {count['groups']} groups, recall {count['recall'] and count['recall']['share']}")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit[originals] * unit[copies]).sum(1)
    group = {row: number for number, found in enumerate(said["groups"]) for row in found["rows"]}
    due = [(a, b) for a, b, cosine in zip(originals, copies, cosines) if cosine >= said["threshold"]]
    found = sum(a in group and group[a] == group.get(b) for a, b in due)
    print(f"   of {twins} planted pairs {len(due)} reach the threshold, {found} of them were found")


def run(program: Path, *words) -> dict:
    done = subprocess.run([str(word) for word in (program, *words, "--json", "--quiet")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--exact-up-to", type=int)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--copies", type=int, default=200, help="of every change")
    parser.add_argument("--threshold", type=float, action="append", default=[], help="beside the program's own")
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args()
    program = asked.program.resolve()
    if asked.rows:
        return random_rows(asked, program)
    if not (asked.checkpoint and asked.data_dir):
        parser.error("--checkpoint and --data-dir, or --rows")
    assert asked.copies * len(CHANGES) <= asked.pictures, "every copy is of another picture"
    records = np.fromfile(asked.data_dir / "cifar-10-batches-bin/test_batch.bin", np.uint8).reshape(-1, 3073)[: asked.pictures]

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "set").mkdir()
        for i, record in enumerate(records):
            picture = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            picture.save(folder / "set" / f"{i:05}.png")
            change = i // asked.copies
            if change < len(CHANGES):
                list(CHANGES.values())[change](picture).save(folder / "set" / f"{i:05}-copy.png")
        features = folder / "features.parquet"
        run(program, "embed", "--checkpoint", asked.checkpoint, "--data", f"folder:{folder / 'set'}", "--out", features)
        print(f"{len(records)} pictures of the test split, {asked.copies} copies of each of {len(CHANGES)} changes")
        for threshold in [None, *asked.threshold]:
            said = run(program, "duplicates", "--features", features, *(["--threshold", threshold] if threshold else []))
            report(said, asked, "given" if threshold else "from the data")


def report(said: dict, asked: argparse.Namespace, how: str) -> None:
    print(f"threshold {said['threshold']:.4f} ({how}), usual cosine {said['usual_cosine']:.4f}, {len(said['groups'])} groups")
    found, pairs, own, groups = Counter(), 0, 0, 0
    names = list(CHANGES)
    for group in said["groups"]:
        numbers = [int(Path(path).stem.removesuffix("-copy")) for path in group["paths"]]
        planted = [number for number, times in Counter(numbers).items() if times == 2]
        for number in planted:
            found[names[number // asked.copies]] += 1
        pairs += len(numbers) * (len(numbers) - 1) // 2
        own += len(planted)
        groups += bool(planted)
        if asked.show and len(planted) != len(numbers) // 2:
            print(f"   beside what was planted: {numbers}, cosine {group['min']:.4f} to {group['max']:.4f}")
    for name in names:
        print(f"   {name:<24} {100 * found[name] / asked.copies:6.1f} %")
    print(f"   planted pairs are {own} of {pairs} pairs in one group, {100 * own / max(pairs, 1):.1f} %, in {groups} of {len(said['groups'])} groups")


if __name__ == "__main__":
    main()
