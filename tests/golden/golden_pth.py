"""Files of torch.save: a narrow model of the course's structure, and tensors that are views of shared storages.

Values are a formula of the element's index and the tensor's place, so that a reader can be checked without another one. What
the model makes of two pictures is beside it, as PyTorch computes it.
"""
import io
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, ResNet


class Narrow(ResNet):
    """torchvision's ResNet with `width` channels where it has 64."""

    def __init__(self, block, layers: list[int], width: int):
        self.width = width
        super().__init__(block, layers)

    def _make_layer(self, block, planes, *arguments, **options):
        if planes == 64:
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // 64, *arguments, **options)


class Model(nn.Module):
    """The course's model, with its sizes as arguments."""

    def __init__(self, block, layers: list[int], width: int, hidden_dim: int, feature_dim: int):
        super().__init__()
        resnet = Narrow(block, layers, width)
        resnet.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        resnet.bn1 = nn.BatchNorm2d(width)
        self.f = nn.Sequential(*[m for m in resnet.children() if not isinstance(m, (nn.Linear, nn.MaxPool2d))])
        self.g = nn.Sequential(
            nn.Linear(8 * width * block.expansion, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, feature_dim, bias=True),
        )

    def forward(self, x):
        feature = torch.flatten(self.f(x), start_dim=1)
        return F.normalize(feature, dim=-1), F.normalize(self.g(feature), dim=-1)


def add_counters(model: nn.Module) -> None:
    """The buffers that the FLOP counter thop registers and the course's file still has."""
    for module in model.modules():
        if list(module.children()):
            module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
            module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))


def is_counter(name: str) -> bool:
    return name.split(".")[-1] in ("total_ops", "total_params")


def fill(model: nn.Module) -> None:
    """Element i of tensor k of the state dict becomes ((37 i + 11 k) mod 101 - 50) / 100, moved to where such values lie."""
    k = 0
    for name, tensor in model.state_dict().items():
        if is_counter(name):
            tensor.fill_(1e9)
            continue
        i = torch.arange(tensor.numel(), dtype=torch.float64)
        value = ((37 * i + 11 * k) % 101 - 50) / 100
        if name.endswith("num_batches_tracked"):
            value = torch.tensor([float(k)])
        elif name.endswith("running_var"):
            value = 1 + value
        elif tensor.dim() == 1 and name.endswith("weight"):
            value = 1 + value / 2
        tensor.copy_(value.reshape(tensor.shape))
        k += 1


def pictures() -> torch.Tensor:
    i = torch.arange(2 * 3 * 16 * 16, dtype=torch.float64)
    return ((29 * i) % 251 / 250 - 0.5).float().reshape(2, 3, 16, 16)


def save(value, path: Path) -> None:
    # The name of a file would go into the archive; of a buffer there is none.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getvalue())


def views() -> OrderedDict:
    """The numbers 0, 1, … in every type that is read, and views of them."""
    base = torch.arange(24, dtype=torch.float32)
    types = {t: getattr(torch, t) for t in "float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()}
    state = OrderedDict(
        whole=base.reshape(2, 3, 4),
        transposed=base.reshape(4, 6).t(),
        permuted=base.reshape(2, 3, 4).permute(2, 0, 1),
        middle=base[5:11],
        every_third=base[1::3],
        last=base[23],
        one_row=base.reshape(4, 6).t()[2:3],
        repeated=base[7:8].expand(3, 2),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(base[4:8].reshape(2, 2)),
    )
    for name, dtype in types.items():
        state[name] = torch.arange(3).to(dtype)
    return state


def make(out_dir: Path) -> None:
    model = Model(BasicBlock, [2, 2, 2, 2], width=2, hidden_dim=6, feature_dim=5)
    fill(model)
    model.eval()
    with torch.no_grad():
        feature, out = model(pictures())
    add_counters(model)
    save(model.state_dict(), out_dir / "pth_course.pth")
    metadata = {"torch": torch.__version__, "script": "golden_pth.py"}
    save_file({"feature": feature, "out": out}, out_dir / "pth_course.safetensors", metadata=metadata)
    save(views(), out_dir / "pth_views.pth")
    # As a training program of many GPUs keeps it, beside other things.
    parallel = OrderedDict(("module." + name, tensor) for name, tensor in views().items())
    state = {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999), "lr": 1e-3, "nesterov": False, "foreach": None}}
    checkpoint = {"epoch": 300, "best": -(2**40), "optimizer": {"state": state, "params": [0, 1]}, "state_dict": parallel}
    save(checkpoint, out_dir / "pth_checkpoint.pth")


if __name__ == "__main__":
    make(Path(__file__).parent)
