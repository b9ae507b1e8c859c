"""Whole networks in PyTorch, float64: outputs, running statistics, every gradient, ten losses; and how far float32 is from them.

Weights and pictures come from `formula` below and from the same formula in the Rust test, so nothing of them is stored. Of a
tensor only two products with formula directions are stored (a wrong element shows in both), its norm, and the norm of what
PyTorch's own float32 is off by: the largest of NCHW and channels_last, with the pictures in several orders. The test compares its float64 with the products, and the
distance of its float32 from its float64 with that of PyTorch.

Float32 may put an activation on the other side of a ReLU than float64; a gradient then jumps, in one program and not in the
other. The narrow ResNet-18 gets pictures for which no activation of the first step is that near to zero (`margin`), so that
every tensor's gradient can be compared by itself. In the others a few always are: there a tensor may be off as much as the
whole gradient is.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from golden_loss import nt_xent
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, Bottleneck

BLOCKS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}
# "-7x7" behind the encoder is the stem of ImageNet with its max-pool.
ENCODERS = ["resnet18", "resnet50", "resnet18-7x7", "resnet50-7x7"]
PICTURES, FEATURE_DIM, TAU, LOSSES = 4, 128, 0.5, 10
# By encoder and width: the pictures (a number in their names), and the least `margin` that they have.
CASES = {("resnet18", 8): (57, 5), ("resnet18", 64): (0, 0), ("resnet50", 8): (0, 0), ("resnet50", 64): (0, 0)}
CASES |= {("resnet18-7x7", 8): (0, 0), ("resnet50-7x7", 8): (0, 0)}


def size(arch: str) -> int:
    """Side of the pictures: odd maps under the max-pool."""
    return 50 if arch.endswith("7x7") else 16


def formula(name: str, shape) -> torch.Tensor:
    """Numbers of [-1, 1) that depend on a name and a place: splitmix64 from the FNV-1a hash of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    u = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(2 * u - 1).reshape(shape)


class Model(nn.Module):
    """The course's model with another width and, if the encoder says so, another stem."""

    def __init__(self, arch: str, width: int):
        super().__init__()
        encoder, _, large = arch.partition("-")
        block, counts = BLOCKS[encoder]
        convolution = nn.Conv2d(3, width, 7, 2, 3, bias=False) if large else nn.Conv2d(3, width, 3, 1, 1, bias=False)
        relu = nn.ReLU(inplace=False)
        # The max-pool has no number of its own: layers are f.3 to f.6 in any case.
        layers = [convolution, nn.BatchNorm2d(width), nn.Sequential(relu, nn.MaxPool2d(3, 2, 1)) if large else relu]
        c_in = width
        for layer, count in enumerate(counts):
            planes, blocks = width << layer, []
            for i in range(count):
                stride, c_out = (2 if layer and i == 0 else 1), planes * block.expansion
                shortcut = None
                if stride != 1 or c_in != c_out:
                    shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
                blocks.append(block(c_in, planes, stride, shortcut))
                c_in = c_out
            layers.append(nn.Sequential(*blocks))
        self.f = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        head = [nn.Linear(c_in, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(inplace=False)]
        self.g = nn.Sequential(*head, nn.Linear(512, FEATURE_DIM))

    def forward(self, x):
        feature = torch.flatten(self.f(x), 1)
        return F.normalize(feature, dim=-1), F.normalize(self.g(feature), dim=-1)


def initial(name: str, old: torch.Tensor) -> torch.Tensor:
    """Weights of the size that keeps activations at their size; statistics and shifts that are not neutral."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    values = formula(name, old.shape)
    if old.dim() > 1:
        fan_in = old[0].numel()
        return values * np.sqrt(6 / fan_in)
    scale, shift = {"weight": (0.2, 1.0), "bias": (0.2, 0.0), "running_mean": (0.1, 0.0), "running_var": (0.5, 1.0)}[
        name.rsplit(".", 1)[1]
    ]
    return values * scale + shift


def build(arch: str, width: int, dtype, channels_last: bool) -> Model:
    model = Model(arch, width)
    # The new parameters are float32: what is loaded into them, and later widened, is exact in both types.
    model.load_state_dict({name: initial(name, old) for name, old in model.state_dict().items()})
    model = model.to(dtype)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def pictures(arch: str, number: int, dtype, channels_last: bool, shift: int = 0):
    shape = (PICTURES, 3, size(arch), size(arch))
    views = [formula(f"pictures.{number}.{side}", shape) * 1.7 for side in ("left", "right")]
    views = [view.float().to(dtype).roll(shift, 0) for view in views]
    return [v.to(memory_format=torch.channels_last) if channels_last else v for v in views]


def embed(model: Model, views, joint: bool):
    """Features and outputs of both views, one after the other."""
    if joint:
        return model(torch.cat(views))
    parts = [model(view) for view in views]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def run(arch: str, width: int, number: int, joint: bool, dtype, channels_last: bool = False, shift: int = 0) -> dict:
    """Everything of one training: by kind, tensors by name. `shift` turns the pictures' order, which is no difference but rounding."""
    model, views = build(arch, width, dtype, channels_last), pictures(arch, number, dtype, channels_last, shift)
    back = lambda rows: torch.cat([view.detach().roll(-shift, 0) for view in rows.chunk(2)])
    with torch.no_grad():
        feature, out = embed(model.eval(), views, joint)
    outputs = {"eval.feature": back(feature), "eval.out": back(out)}
    model.train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=1e-6)
    losses, gradients, statistics = [], {}, {}
    for step in range(LOSSES):
        feature, out = embed(model, views, joint)
        loss = nt_xent(out[:PICTURES], out[PICTURES:], TAU)
        adam.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            outputs |= {"train.feature": back(feature), "train.out": back(out)}
            gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
            statistics = {n: b.clone() for n, b in model.named_buffers() if not n.endswith("tracked")}
        adam.step()
    return {"outputs": outputs, "gradients": gradients, "statistics": statistics, "losses": losses}


def activations(arch: str, width: int, number: int, dtype, channels_last: bool) -> list:
    """What goes into every ReLU of the first step, both view modes: a row for every channel."""
    maps = []

    def look(_, arguments):
        x = arguments[0].detach().double()
        maps.append(x.transpose(0, 1).reshape(x.shape[1], -1))

    model, views = build(arch, width, dtype, channels_last), pictures(arch, number, dtype, channels_last)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        for joint in [False, True]:
            embed(model.train(), views, joint)
    return maps


def margin(arch: str, width: int, number: int) -> float:
    """How many times further from zero than float32 is from float64 the nearest activation is, the least of all channels."""
    truth = activations(arch, width, number, torch.float64, False)
    errors = None
    for channels_last in [False, True]:
        other = activations(arch, width, number, torch.float32, channels_last)
        found = [(x - y).abs().max(1).values for x, y in zip(truth, other)]
        errors = found if errors is None else [torch.maximum(a, b) for a, b in zip(errors, found)]
    return min((x.abs().min(1).values / error).min().item() for x, error in zip(truth, errors))


def described(kind: dict, others: list) -> tuple:
    """For every tensor, by name: two products and the norm; the distance of float32."""
    rows, distances = [], []
    for name in sorted(kind):
        t = kind[name].flatten()
        products = [(t @ formula(f"direction.{k}.{name}", t.shape)).item() for k in range(2)]
        rows.append([*products, t.norm().item()])
        distances.append(max((other[name].double().flatten() - t).norm().item() for other in others))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64)


def make(out_dir: Path) -> None:
    # One thread: PyTorch splits sums by threads, and the float32 distances would depend on the machine's cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for arch in ENCODERS:
        tensors = {}
        for (_, width), (number, least) in {case: v for case, v in CASES.items() if case[0] == arch}.items():
            found = margin(arch, width, number) if least else 0
            assert found >= least, f"{arch} width {width}: the margin is {found}, expected {least}: choose other pictures"
            for joint in [False, True]:
                truth = run(arch, width, number, joint, torch.float64)
                variants = [(last, shift) for last in (False, True) for shift in range(PICTURES)]
                others = [run(arch, width, number, joint, torch.float32, *variant) for variant in variants]
                prefix = f"{width}.{'joint' if joint else 'separate'}"
                for kind in ["outputs", "gradients", "statistics"]:
                    rows, distances = described(truth[kind], [other[kind] for other in others])
                    tensors |= {f"{prefix}.{kind}": rows, f"{prefix}.{kind}_distance": distances}
                losses = torch.tensor(truth["losses"], dtype=torch.float64)
                distances = [(torch.tensor(other["losses"], dtype=torch.float64) - losses).norm() for other in others]
                tensors[f"{prefix}.losses"] = losses
                tensors[f"{prefix}.losses_distance"] = max(distances)
                total = lambda other: sum(
                    (other["gradients"][n].double() - g).square().sum() for n, g in truth["gradients"].items()
                ).sqrt()
                tensors[f"{prefix}.gradient_distance"] = max(total(other) for other in others)
            tensors[f"{width}.pictures"] = torch.tensor(number)
        versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        save_file(tensors, out_dir / f"network_{arch}.safetensors", metadata={"made with": versions})
    torch.set_num_threads(threads)


if __name__ == "__main__":
    make(Path(__file__).parent)
