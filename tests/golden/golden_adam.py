"""torch.optim.Adam over 50 steps on small tensors, float64 and float32: the parameters after every tenth step."""
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {"matrix": (3, 4), "vector": (7,), "scalar": ()}
STEPS = 50


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
    for decay in [0.0, 1e-2]:
        for dtype in [torch.float64, torch.float32]:
            parameters = {name: tensors[f"start.{name}"].to(dtype).clone().requires_grad_() for name in SHAPES}
            adam = torch.optim.Adam(parameters.values(), lr=1e-2, weight_decay=decay)
            for step in range(STEPS):
                for name, parameter in parameters.items():
                    parameter.grad = tensors[f"grad.{name}"][step].to(dtype)
                if step == 25:
                    adam.param_groups[0]["lr"] = 1e-3
                adam.step()
                if step % 10 == 9:
                    for name, parameter in parameters.items():
                        kind = "f64" if dtype == torch.float64 else "f32"
                        tensors[f"{kind}.{decay}.{step}.{name}"] = parameter.detach().clone()
    save_file(tensors, out_dir / "adam.safetensors", metadata={"torch": torch.__version__, "script": "golden_adam.py"})


if __name__ == "__main__":
    make(Path(__file__).parent)
