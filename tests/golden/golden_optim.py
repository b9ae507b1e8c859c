"""Optimizers over 50 steps on small tensors, float64 and float32: the parameters after every tenth step.

Adam, AdamW and SGD are PyTorch's. LARS is what google-research/simclr (lars_optimizer.py, with its default of classic momentum)
computes, written here again in plain tensor operations: that code needs TensorFlow 1.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {"matrix": (3, 4), "vector": (7,), "scalar": ()}
STEPS = 50
DECAY = 1e-2


class Lars:
    """One velocity for each parameter; vectors have no weight decay and keep their rate, as biases and batch norm do there."""

    def __init__(self, parameters, lr, momentum, nesterov=False, weight_decay=0.0, eeta=0.001):
        self.param_groups = [{"lr": lr}]
        self.parameters = list(parameters)
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.momentum, self.nesterov, self.weight_decay, self.eeta = momentum, nesterov, weight_decay, eeta

    @torch.no_grad()
    def step(self):
        for p, v in zip(self.parameters, self.velocities):
            grad, rate = p.grad, self.param_groups[0]["lr"]
            if p.dim() > 1:
                grad = grad + self.weight_decay * p
                w_norm, g_norm = p.norm(), grad.norm()
                if w_norm > 0 and g_norm > 0:
                    rate = rate * (self.eeta * w_norm / g_norm)
            v.copy_(self.momentum * v + rate * grad)
            p -= self.momentum * v + rate * grad if self.nesterov else v


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam-decay": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=DECAY),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=DECAY),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=DECAY),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=DECAY),
    "lars": lambda p: Lars(p, lr=1.0, momentum=0.9, weight_decay=DECAY),
    "lars-nesterov": lambda p: Lars(p, lr=1.0, momentum=0.9, nesterov=True, weight_decay=DECAY),
}


def make(out_dir: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator).double()
    tensors = {f"start.{name}": draw(shape) for name, shape in SHAPES.items()}
    # Gradients of very different sizes, some of them zero.
    for name, shape in SHAPES.items():
        sizes = 10.0 ** torch.randint(-6, 3, (STEPS, *shape), generator=generator)
        tensors[f"grad.{name}"] = draw((STEPS, *shape)).float().double() * sizes.float().double()
        tensors[f"grad.{name}"] = tensors[f"grad.{name}"].float().double()
        tensors[f"grad.{name}"][5] = 0
    for optimizer, construct in OPTIMIZERS.items():
        for dtype in [torch.float64, torch.float32]:
            parameters = {name: tensors[f"start.{name}"].to(dtype).clone().requires_grad_() for name in SHAPES}
            optim = construct(parameters.values())
            for step in range(STEPS):
                for name, parameter in parameters.items():
                    parameter.grad = tensors[f"grad.{name}"][step].to(dtype)
                if step == 25:
                    optim.param_groups[0]["lr"] /= 10
                optim.step()
                if step % 10 == 9:
                    for name, parameter in parameters.items():
                        kind = "f64" if dtype == torch.float64 else "f32"
                        tensors[f"{kind}.{optimizer}.{step}.{name}"] = parameter.detach().clone()
    # `clip_grad_norm_` of the first gradients: the norm before, and the gradients after.
    parameters = {name: tensors[f"start.{name}"].clone().requires_grad_() for name in SHAPES}
    for name, parameter in parameters.items():
        parameter.grad = tensors[f"grad.{name}"][0].clone()
    tensors["clip.norm"] = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    for name, parameter in parameters.items():
        tensors[f"clip.grad.{name}"] = parameter.grad
    save_file(tensors, out_dir / "optim.safetensors", metadata={"torch": torch.__version__, "script": "golden_optim.py"})


if __name__ == "__main__":
    make(Path(__file__).parent)
