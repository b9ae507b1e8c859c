#!/usr/bin/env python3
"""Checks that pyarrow, NumPy and safetensors read what `embed` writes, and that all three say the same.

    check_embed.py --program target/debug/simclr-train      with a Python that has numpy, pandas, pyarrow and safetensors
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import safetensors
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "tests/golden/pth_course.pth"
ROWS, WIDTH = 300, 16


def embed(program: Path, out: Path, *flags) -> dict:
    command = [program, "embed", "--checkpoint", WEIGHTS, "--data", "shapes", "--subset", ROWS, "--out", out, "--json", *flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(program: Path, folder: Path, *flags) -> None:
    said = {name: embed(program, folder / f"a.{name}", *flags) for name in ("npy", "safetensors", "parquet")}
    rows, sha256 = said["npy"]["rows"], said["npy"]["encoder_sha256"]
    print(f"{' '.join(flags) or 'plain'}: {rows} rows of {said['npy']['width']}")

    array = np.load(folder / "a.npy", allow_pickle=False)
    assert array.shape == (rows, WIDTH) and array.dtype == np.float32 and array.flags.c_contiguous
    mapped = np.load(folder / "a.npy", mmap_mode="r")
    assert np.array_equal(mapped, array)
    print(f"   numpy: {array.shape} {array.dtype}, of length {np.linalg.norm(array, axis=1).mean():.4f}")

    tensors = load_file(folder / "a.safetensors")
    assert sorted(tensors) == ["features", "labels"] and tensors["labels"].dtype == np.int64
    assert tensors["features"].dtype == np.float32 and np.array_equal(tensors["features"], array)
    with safetensors.safe_open(folder / "a.safetensors", "numpy") as file:
        metadata = file.metadata()
    paths, classes = json.loads(metadata["paths"]), json.loads(metadata["classes"])
    assert len(paths) == rows and len(classes) == 10 and metadata["encoder_sha256"] == sha256
    names = [classes[label] for label in tensors["labels"]]
    print(f"   safetensors: metadata {sorted(metadata)}, the last picture {paths[-1]} is {names[-1]}")

    table = pyarrow.parquet.read_table(folder / "a.parquet")
    assert table.column_names == ["path", "label", "vector"]
    vector = table.schema.field("vector").type
    assert pyarrow.types.is_list(vector) and vector.value_type == pyarrow.float32()
    assert table.schema.field("path").type == pyarrow.string() and not table.schema.field("path").nullable
    assert table.schema.field("label").type == pyarrow.string() and table.schema.field("label").nullable
    flat = table["vector"].combine_chunks().flatten().to_numpy().reshape(rows, WIDTH)
    assert np.array_equal(flat, array)
    assert table["path"].to_pylist() == paths and table["label"].to_pylist() == names
    own = {key.decode(): value.decode() for key, value in pyarrow.parquet.read_schema(folder / "a.parquet").metadata.items()}
    assert own["encoder_sha256"] == sha256 and own["data"] == "shapes" and own["checkpoint"] == str(WEIGHTS)
    frame = pandas.read_parquet(folder / "a.parquet")
    assert frame.shape == (rows, 3) and np.array_equal(np.stack(frame["vector"]), array)
    print(f"   pyarrow: {str(table.schema.remove_metadata()).splitlines()}, metadata {own['split']}, normalized {own['normalized']}")
    for path in folder.iterdir():
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, required=True)
    program = parser.parse_args().program.resolve()
    print(f"numpy {np.__version__} pandas {pandas.__version__} pyarrow {pyarrow.__version__} safetensors {safetensors.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        check(program, Path(folder))
        check(program, Path(folder), "--normalize", "--split", "test")
        check(program, Path(folder), "--shard", "2/7")
    print("all as it should be")


if __name__ == "__main__":
    main()
