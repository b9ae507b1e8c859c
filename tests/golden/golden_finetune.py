"""Fine-tuning in PyTorch, float64: a narrow ResNet-18 with the 3x3 stem and a linear layer, ten steps of SGD with Nesterov
momentum and a learning rate that falls by a cosine, on random pictures.

The fixture has the initial values (float32, exact in both types), pictures and labels, the loss of every step, the gradient of
the first step's for every parameter as its norm and its product with the parameter, and what the trained network says in
evaluation mode, which its running statistics are part of.
"""

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, ResNet

WIDTH, CLASSES, PICTURES, SIZE = 2, 5, 8, 16
STEPS, LEARNING_RATE, WEIGHT_DECAY = 10, 0.05, 1e-2
# torchvision's modules in the course's encoder.
PLACES = {"conv1": "f.0", "bn1": "f.1", "layer1": "f.3", "layer2": "f.4", "layer3": "f.5", "layer4": "f.6", "fc": "fc"}


def new_model() -> ResNet:
    """torchvision's ResNet-18 of width 2 with the stem of CIFAR."""
    model = ResNet(BasicBlock, [2, 2, 2, 2])
    model.conv1 = nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False)
    model.bn1, model.maxpool, model.inplanes = nn.BatchNorm2d(WIDTH), nn.Identity(), WIDTH
    for layer in range(4):
        made = model._make_layer(BasicBlock, WIDTH << layer, 2, stride=1 if layer == 0 else 2)
        setattr(model, f"layer{layer + 1}", made)
    model.fc = nn.Linear(8 * WIDTH, CLASSES)
    return model


def place(name: str) -> str:
    module, rest = name.split(".", 1)
    return f"{PLACES[module]}.{rest}"


def make(out_dir: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape, scale: torch.randn(shape, generator=generator) * scale
    model = new_model()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel()
            if parameter.dim() > 1:
                parameter.copy_(draw(parameter.shape, (2 / fan_in) ** 0.5))
            else:
                parameter.copy_(parameter.new_ones(()) * 0.5 + draw(parameter.shape, 0.1))
    pictures = draw((PICTURES, 3, SIZE, SIZE), 1.0)
    labels = torch.randint(CLASSES, (PICTURES,), generator=generator)
    tensors = {f"start.{place(name)}": p.detach().clone() for name, p in model.named_parameters()}
    tensors |= {"pictures": pictures, "labels": labels}

    model, pictures = model.double().train(), pictures.double()
    weights = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": vectors}]
    sgd = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=STEPS)
    losses = []
    for step in range(STEPS):
        loss = F.cross_entropy(model(pictures), labels)
        sgd.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            for name, p in model.named_parameters():
                described = [p.grad.norm().item(), (p.grad * p.detach()).sum().item()]
                tensors[f"gradient.{place(name)}"] = torch.tensor(described, dtype=torch.float64)
        sgd.step()
        cosine.step()
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    with torch.no_grad():
        tensors["logits"] = model.eval()(pictures)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "script": "golden_finetune.py"}
    save_file({name: t.contiguous() for name, t in tensors.items()}, out_dir / "finetune.safetensors", metadata=versions)


if __name__ == "__main__":
    make(Path(__file__).parent)
