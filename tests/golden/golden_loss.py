"""NT-Xent in PyTorch, float64: values and gradients, for several sizes and temperatures.

The loss is the seed's vectorized form with every term differentiated (its naive form detaches the denominators), around a
log-sum-exp so that tau = 0.01 is defined. Beside it the float32 value, to show how far float32 can be trusted.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CASES = [(1, 5, 0.5), (2, 1, 0.5), (3, 5, 0.1), (8, 128, 0.5), (31, 16, 0.2), (33, 3, 1.0), (5, 7, 0.01)]


def nt_xent(left, right, tau):
    n = left.shape[0]
    out = F.normalize(torch.cat([left, right]), dim=1)
    logits = (out @ out.T / tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def make(out_dir: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i, (n, d, tau) in enumerate(CASES):
        # Lengths far from 1: the loss must normalise.
        left, right = (3 * torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
        # float32 inputs that are exact in both types.
        left, right = (t.float().double().requires_grad_() for t in (left, right))
        loss = nt_xent(left, right, tau)
        loss.backward()
        out = F.normalize(torch.cat([left, right]).detach(), dim=1)
        tensors |= {
            f"{i}.tau": torch.tensor(tau, dtype=torch.float64), f"{i}.left": left.detach(), f"{i}.right": right.detach(),
            f"{i}.loss": loss.detach(), f"{i}.left_grad": left.grad, f"{i}.right_grad": right.grad,
            f"{i}.sim_matrix": out @ out.T, f"{i}.positives": (out[:n] * out[n:]).sum(1, keepdim=True),
            f"{i}.loss_f32": nt_xent(left.detach().float(), right.detach().float(), tau).double(),
        }
    save_file(tensors, out_dir / "loss.safetensors", metadata={"torch": torch.__version__, "script": "golden_loss.py"})


if __name__ == "__main__":
    make(Path(__file__).parent)
