#!/usr/bin/env python3
"""Checks exported encoders with the real packages: ONNX in onnxruntime, torchvision's names in torchvision.

    check_onnx.py --program PATH        with a Python that has torch, torchvision, onnx, onnxruntime, numpy and safetensors

Each encoder has random weights and running statistics. What onnxruntime gives is compared with PyTorch in f64,
for two batch sizes and, where pictures are normalised inside, from their bytes.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, Bottleneck

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests/golden"))
from golden_pth import Model  # noqa: E402

TOLERANCE = 1e-4
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2023, 0.1994, 0.2010], np.float32)


def run(program: str, *arguments) -> dict:
    done = subprocess.run([program, *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Running statistics as after a training, so that folding them is seen."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def session(path: Path) -> onnxruntime.InferenceSession:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    operations = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operations, operations
    print(f"   {path.name}: {path.stat().st_size} bytes, {len(model.graph.node)} nodes, {sorted(operations)}")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def distance(found, expected) -> float:
    """The largest, in parts of the largest feature where that is above 1: features of random networks grow with their depth."""
    found, expected = (np.asarray(numbers, np.float64) for numbers in (found, expected))
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def course(program: str, name: str, blocks, folder: Path) -> None:
    print(f"{name}, 3x3 stem")
    torch.manual_seed(0)
    model = shaken(Model(*blocks, width=64, hidden_dim=512, feature_dim=128))
    weights = folder / f"{name}.pth"
    torch.save(model.state_dict(), weights)
    outside, inside = folder / f"{name}-outside.onnx", folder / f"{name}-inside.onnx"
    run(program, "export", "--checkpoint", weights, "--out", outside)
    run(program, "export", "--checkpoint", weights, "--input", "pixels", "--out", inside)
    normalized, pixels = session(outside), session(inside)
    encoder = model.f.double()
    for n in (1, 5):
        byte = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
        numbers = ((byte.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(numbers.copy()).double()).flatten(1).numpy()
        far = [
            distance(normalized.run(["features"], {"pictures": np.ascontiguousarray(numbers)})[0], expected),
            distance(pixels.run(["features"], {"pictures": byte})[0], expected),
        ]
        print(f"   batch {n}: onnxruntime within {far[0]:.1e} (normalised outside) and {far[1]:.1e} (inside) of PyTorch in f64")
        assert max(far) < TOLERANCE, far


def torchvision_names(program: str, name: str, folder: Path) -> None:
    print(f"{name}, 7x7 stem, torchvision's names")
    torch.manual_seed(0)
    model = shaken(getattr(torchvision.models, name)())
    weights = folder / f"tv-{name}.pth"
    torch.save(model.state_dict(), weights)
    model.fc = torch.nn.Identity()
    pictures = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        expected = model.double()(pictures.double()).numpy()
    for ending in ("pth", "safetensors"):
        back = folder / f"tv-{name}-back.{ending}"
        run(program, "export", "--checkpoint", weights, "--names", "torchvision", "--out", back)
        if ending == "pth":
            state = torch.load(back, weights_only=True)
        else:
            from safetensors.torch import load_file

            state = load_file(back)
        other = getattr(torchvision.models, name)()
        other.fc = torch.nn.Identity()
        print("  ", ending, other.load_state_dict(state, strict=True))
        for key, tensor in other.state_dict().items():
            assert torch.equal(tensor, state[key]) and torch.equal(tensor.double(), model.state_dict()[key].double()), key
    out = folder / f"tv-{name}.onnx"
    run(program, "export", "--checkpoint", weights, "--out", out)
    far = distance(session(out).run(["features"], {"pictures": pictures.numpy()})[0], expected)
    print(f"   pictures of 64x96: onnxruntime within {far:.1e} of torchvision in f64")
    assert far < TOLERANCE, far


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    program = parser.parse_args().program
    print(f"torch {torch.__version__} torchvision {torchvision.__version__} onnx {onnx.__version__} onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for name, blocks in {
            "resnet18": (BasicBlock, [2, 2, 2, 2]),
            "resnet34": (BasicBlock, [3, 4, 6, 3]),
            "resnet50": (Bottleneck, [3, 4, 6, 3]),
        }.items():
            course(program, name, blocks, Path(folder))
            torchvision_names(program, name, Path(folder))
    print("all as it should be")


if __name__ == "__main__":
    main()
