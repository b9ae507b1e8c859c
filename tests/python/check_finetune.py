#!/usr/bin/env python3
"""Checks that a network fine-tuned by the program is the same classifier in torchvision.

    check_finetune.py PROGRAM DATA_DIR      PROGRAM: simclr-train, built; DATA_DIR has CIFAR-10 in its binary form

An encoder with torchvision's own shape (7x7 stem, width 64) is pretrained and fine-tuned for a moment. The file of `--out` must
load into torchvision.models.resnet18(num_classes=10) with weights_only=True and strict=True, and this must take as many test
pictures of every class for every other as the program said, but for the few whose two best classes are equal to rounding.
Needs torch, torchvision, safetensors and numpy.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests/reference"))
from simclr_torch import CLASSES, MEAN, STD, read_cifar10  # noqa: E402

MOST_MOVED = 5


def program(*words) -> dict:
    done = subprocess.run([*map(str, words), "--json", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def confusion(network: torch.nn.Module, pictures, labels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for part, right in zip(torch.from_numpy(pictures).split(250), labels.split(250)):
        logits = network((part.permute(0, 3, 1, 2).float() / 255 - mean) / std)
        counts.index_put_((right, logits.argmax(1)), torch.ones_like(right), accumulate=True)
    return counts


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binary, data_dir = map(Path, sys.argv[1:])
    data = ["--data", "cifar10", "--data-dir", data_dir]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shape = ["--arch", "resnet18", "--stem", "7x7", "--subset", 640, "--batch", 64, "--epochs", 1, "--knn-every", 0]
        program(binary, "pretrain", *data, *shape, "--run", run)
        for name in ["tuned.pth", "tuned.safetensors"]:
            file = Path(folder) / name
            options = ["--labels", "100%", "--epochs", 3, "--no-baselines", "--out", file]
            result = program(binary, "finetune", "--checkpoint", run, *options)
            state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
            network = torchvision.models.resnet18(num_classes=CLASSES)
            network.load_state_dict(state, strict=True)
            found = confusion(network.eval(), *read_cifar10(data_dir, "test", None))
            moved = (found - torch.tensor(result["confusion"])).abs().sum().item() // 2
            top1 = found.diagonal().sum().item() / found.sum().item()
            print(f"{name}: top-1 {top1:.4f} in torchvision, {result['top1']:.4f} in the program, {moved} pictures moved")
            assert moved <= MOST_MOVED
            if file.suffix == ".safetensors":
                with safe_open(file, "pt") as opened:
                    about = json.loads(opened.metadata()["simclr.classifier"])
                print("  ", about)
                assert len(about["classes"]) == CLASSES


if __name__ == "__main__":
    main()
