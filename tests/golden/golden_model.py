"""The state dict of the course's model for each encoder: names, shapes, number of parameters, multiply-adds."""
from pathlib import Path

import torch
import torch.nn as nn
import torchvision


def model(arch: str, feature_dim: int = 128) -> nn.Module:
    """The course's model: a torchvision ResNet with a 3x3 stem and no max-pool, and the projection head."""
    resnet = getattr(torchvision.models, arch)()
    width = resnet.fc.in_features
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    kept = [m for m in resnet.children() if not isinstance(m, (nn.Linear, nn.MaxPool2d))]
    head = nn.Sequential(nn.Linear(width, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, feature_dim))
    whole = nn.Module()
    whole.f, whole.g = nn.Sequential(*kept), head
    return whole


def multiply_adds(whole: nn.Module, size: int = 32) -> int:
    """Of convolutions and linear layers, for one picture, counted by hooks as the pictures pass."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output.numel() // output.shape[1] * module.weight.numel() if output.dim() == 4 else module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in whole.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    whole.eval()
    with torch.no_grad():
        whole.g(torch.flatten(whole.f(torch.zeros(1, 3, size, size)), 1))
    for hook in hooks:
        hook.remove()
    return total


def make(out_dir: Path) -> None:
    for arch in ["resnet18", "resnet34", "resnet50"]:
        whole = model(arch)
        lines = [f"torch {torch.__version__} torchvision {torchvision.__version__}"]
        lines += [f"entry {name} {list(t.shape)}" for name, t in whole.state_dict().items()]
        lines += [f"parameters {sum(p.numel() for p in whole.parameters())}", f"multiply-adds {multiply_adds(whole)}"]
        (out_dir / f"state_dict_{arch}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    make(Path(__file__).parent)
