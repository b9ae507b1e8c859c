#!/usr/bin/env python3
"""Checks that weights go from PyTorch to the program and back, at the size of the course's model.

    check_pth.py        with a Python that has torch, torchvision and safetensors; builds what it needs with cargo

For each encoder: a model of the course's structure with random weights and statistics, saved by torch.save with the counters
that thop leaves, is imported; its features are compared with PyTorch's; it is exported and loaded again by PyTorch with
weights_only=True and strict=True. Then files that must be refused.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torchvision.models.resnet import BasicBlock, Bottleneck

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests/golden"))
from golden_pth import Model, add_counters, is_counter  # noqa: E402

TOLERANCE = 1e-4
ARCHITECTURES = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet34": (BasicBlock, [3, 4, 6, 3]), "resnet50": (Bottleneck, [3, 4, 6, 3])}


def cargo(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(["cargo", "run", "--quiet", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def program(*arguments) -> subprocess.CompletedProcess:
    return cargo("-p", "simclr-train", "--", *arguments)


def succeeds(*arguments) -> None:
    done = program(*arguments)
    assert done.returncode == 0, done.stderr
    print("  ", done.stdout.strip())


def refused(reason: str, *arguments) -> None:
    done = program(*arguments)
    assert done.returncode == 1 and reason in done.stderr and "panicked" not in done.stderr, (done.returncode, done.stderr)
    print("   refused:", done.stderr.strip())


def random_model(arch: str) -> Model:
    torch.manual_seed(0)
    model = Model(*ARCHITECTURES[arch], width=64, hidden_dim=512, feature_dim=128)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1234)
    return model.eval()


def compare(model: Model, weights: Path, folder: Path) -> float:
    """The largest distance between PyTorch's rows of unit length and the program's."""
    pictures = torch.randn(4, 3, 32, 32)
    save_file({"pictures": pictures}, folder / "pictures.safetensors")
    out = folder / "features.safetensors"
    done = cargo("-p", "simclr-model", "--example", "features", "--", weights, folder / "pictures.safetensors", out)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = dict(zip(("feature", "out"), model(pictures)))
    return max((tensor - expected[name]).abs().max().item() for name, tensor in load_file(out).items())


def round_trip(arch: str, folder: Path) -> None:
    print(arch)
    model = random_model(arch)
    saved = random_model(arch)
    add_counters(saved)
    state = saved.state_dict()
    assert hasattr(state, "_metadata") and any(is_counter(name) for name in state)
    path = folder / f"{arch}.pth"
    torch.save(state, path)
    print(f"   {path.stat().st_size} bytes, {sum(map(is_counter, state))} counters")
    for weights in (path, folder / f"{arch}.safetensors"):
        if weights != path:
            succeeds("import", path, "--out", weights)
        distance = compare(model, weights, folder)
        assert distance < TOLERANCE, f"{weights.name}: {distance}"
        print(f"   {weights.name}: features and embeddings within {distance:.1e} of PyTorch's")
    back = folder / f"{arch}-back.pth"
    succeeds("export", "--checkpoint", folder / f"{arch}.safetensors", "--format", "pth", "--out", back)
    loaded = torch.load(back, weights_only=True)
    assert list(loaded) == list(model.state_dict()), "another order of names"
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name
    # Other values first, so that those of the file are seen to replace them.
    other = random_model(arch)
    for tensor in other.state_dict().values():
        tensor.zero_()
    print("  ", other.load_state_dict(loaded, strict=True))
    pictures = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(other(pictures), model(pictures)))


def half_and_parallel(folder: Path) -> None:
    print("checkpoint of a data-parallel model in half precision")
    model = random_model("resnet18").half().float()
    path = folder / "checkpoint.pth"
    torch.save({"epoch": 7, "state_dict": torch.nn.DataParallel(random_model("resnet18").half()).state_dict()}, path)
    distance = compare(model, path, folder)
    assert distance < TOLERANCE, distance
    print(f"   within {distance:.1e} of PyTorch's")


def torchvision_files(folder: Path) -> None:
    for arch in ARCHITECTURES:
        print(f"torchvision's {arch}")
        torch.manual_seed(0)
        model = getattr(torchvision.models, arch)().train()
        model(torch.randn(4, 3, 64, 64))
        model.eval()
        path = folder / f"torchvision-{arch}.pth"
        torch.save(model.state_dict(), path)
        pictures = torch.randn(4, 3, 64, 64)
        save_file({"pictures": pictures}, folder / "pictures.safetensors")
        out = folder / "features.safetensors"
        done = cargo("-p", "simclr-model", "--example", "features", "--", path, folder / "pictures.safetensors", out)
        assert done.returncode == 0, done.stderr
        model.fc = torch.nn.Identity()
        with torch.no_grad():
            expected = torch.nn.functional.normalize(model(pictures), dim=-1)
        distance = (load_file(out)["feature"] - expected).abs().max().item()
        assert distance < TOLERANCE, distance
        print(f"   features within {distance:.1e} of torchvision's")
        succeeds("import", path, "--out", folder / f"torchvision-{arch}.safetensors")


def bad_files(folder: Path) -> None:
    print("files that are refused")
    out = folder / "never.safetensors"
    whole = (folder / "resnet18.pth").read_bytes()
    bad = folder / "bad.pth"
    for at in (len(whole) // 3, len(whole) - 1):
        bad.write_bytes(whole[:at])
        refused("not a whole zip archive", "import", bad, "--out", out)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    bad.write_bytes(flipped)
    refused("is damaged: its CRC-32", "import", bad, "--out", out)

    class Command:
        def __reduce__(self):
            return (print, ("code of the file was run",))

    torch.save({"f.0.weight": torch.zeros(1), "x": Command()}, bad)
    refused('"print" is no part of a state dict; it was not called', "import", bad, "--out", out)
    torch.save(random_model("resnet18").state_dict(), bad, _use_new_zipfile_serialization=False)
    refused("save it again with torch.save", "import", bad, "--out", out)
    model = random_model("resnet18")
    model.f[0] = torch.nn.Conv2d(3, 64, 5, bias=False)
    torch.save(model.state_dict(), bad)
    refused("f.0.weight has shape [64, 3, 5, 5]", "import", bad, "--out", out)
    state = random_model("resnet18").state_dict()
    state["f.4.0.bn1.gamma"] = state.pop("f.4.0.bn1.weight")
    torch.save(state, bad)
    refused("missing f.4.0.bn1.weight [128]; unexpected f.4.0.bn1.gamma", "import", bad, "--out", out)
    torch.save(random_model("resnet18"), bad)
    refused("no part of a state dict", "import", bad, "--out", out)
    assert not out.exists()


def main() -> None:
    print(f"torch {torch.__version__} torchvision {torchvision.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHITECTURES:
            round_trip(arch, Path(folder))
        half_and_parallel(Path(folder))
        torchvision_files(Path(folder))
        bad_files(Path(folder))
    print("all as it should be")


if __name__ == "__main__":
    main()
