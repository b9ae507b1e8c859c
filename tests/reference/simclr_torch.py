"""SimCLR of the course in PyTorch and torchvision, on CIFAR-10: what `follow.py` and `recipe.py` compare with.

Nothing of it is the program's: pictures are read from the binary files again, and views, layers, Adam and neighbours
are those of PyTorch, torchvision and PIL. Model and loss are those that the golden values of `tests/golden` come from.

    simclr_torch.py --data-dir DIR [--arch resnet18] [--width 16] [--subset 5000] [--batch 128] [--epochs 1] ...

trains by itself on the CPU and prints the loss of every epoch and kNN on the test split. It needs torch, torchvision,
safetensors and numpy, and `cifar-10-batches-bin` in DIR.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.models.resnet import BasicBlock, Bottleneck

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from golden_loss import nt_xent  # noqa: E402
from golden_pth import Model  # noqa: E402

ARCHITECTURES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
TRAINING_PICTURES, CLASSES = 50_000, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
TEMPERATURE = 0.5
# Neighbours, and the temperature of a vote exp(cosine / t): the course's protocol; the literature's, of equal votes.
PROTOCOLS = [(200, 0.5), (10, None)]


def read_cifar10(data_dir: Path, split: str, count: int | None) -> tuple[np.ndarray, torch.Tensor]:
    """The first `count` pictures of a split, bytes `[n, 32, 32, 3]`, and their labels."""
    records = [np.fromfile(data_dir / "cifar-10-batches-bin" / file, np.uint8) for file in FILES[split]]
    records = np.concatenate(records).reshape(-1, 1 + 3 * 32 * 32)[:count]
    pictures = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pictures), torch.from_numpy(records[:, 0].astype(np.int64))


def new_model(arch: str, width: int) -> Model:
    """The course's model with `width` channels after its stem, where the course has 64.

    Its first values are the course's too: convolutions have torchvision's, but the stem those of nn.Conv2d.
    """
    return Model(*ARCHITECTURES[arch], width=width, hidden_dim=512, feature_dim=128)


def new_adam(model: Model, lr: float) -> torch.optim.Adam:
    # Decay is part of the gradient (L2), as in the course; not AdamW.
    return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-6)


def train_step(model: Model, adam: torch.optim.Adam, left: torch.Tensor, right: torch.Tensor) -> float:
    """One step of the course: a forward pass, and batch statistics, for each view. Returns the loss before the step."""
    out_left, out_right = model(left)[1], model(right)[1]
    loss = nt_xent(out_left, out_right, TEMPERATURE)
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.item()


class Pairs(Dataset):
    """Two views of every picture, under the course's transform."""

    transform = T.Compose(
        [
            T.RandomResizedCrop(32),
            T.RandomHorizontalFlip(p=0.5),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )

    def __init__(self, pictures: np.ndarray):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = Image.fromarray(self.pictures[index])
        return self.transform(picture), self.transform(picture)


def pretrain(model: Model, pictures: np.ndarray, batch: int, epochs: int, lr: float) -> list[float]:
    """Trains on the whole batches of every epoch; all is drawn from the global seed. Returns the mean loss of each."""
    # One worker, as the program has.
    loader = DataLoader(Pairs(pictures), batch, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    adam, means = new_adam(model.train(), lr), []
    for epoch in range(epochs):
        losses = [train_step(model, adam, left, right) for left, right in loader]
        means.append(sum(losses) / len(losses))
        print(f"PyTorch: epoch {epoch + 1}/{epochs}, loss {means[-1]:.4f}", file=sys.stderr)
    return means


@torch.no_grad()
def embed(encode, pictures: np.ndarray) -> torch.Tensor:
    """Rows of unit length: what `encode` makes of the normalised pictures without augmentation."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    rows = []
    for part in torch.from_numpy(pictures).split(128):
        part = (part.permute(0, 3, 1, 2).float() / 255 - mean) / std
        rows.append(F.normalize(encode(part), dim=1))
    return torch.cat(rows)


def knn(bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Top-1 under each of `PROTOCOLS`, with no more neighbours than the bank has.

    Among classes with equal votes the lower one wins (argmax gives the first). Which of equally near neighbours is the
    last to vote is left to topk; the program takes that of the lower index.
    """
    hits, most = [0] * len(PROTOCOLS), min(len(bank), max(k for k, _ in PROTOCOLS))
    for rows, right in zip(queries.split(500), labels.split(500)):
        cosines, neighbours = (rows @ bank.T).topk(most)
        for i, (k, temperature) in enumerate(PROTOCOLS):
            near = cosines[:, :k].double()
            weights = torch.ones_like(near) if temperature is None else (near / temperature).exp()
            votes = torch.zeros(len(rows), CLASSES, dtype=torch.float64)
            votes.scatter_add_(1, bank_labels[neighbours[:, :k]], weights)
            hits[i] += (votes.argmax(1) == right).sum().item()
    return [hit / len(labels) for hit in hits]


def evaluate(encode, train: tuple, test: tuple) -> list[float]:
    """kNN of what `encode` makes of pictures: the training pictures vote, the test split asks."""
    return knn(embed(encode, train[0]), train[1], embed(encode, test[0]), test[1])


def evaluate_model(model: Model, train: tuple, test: tuple) -> list[float]:
    model.eval()
    return evaluate(lambda pictures: model(pictures)[0], train, test)


def evaluate_pixels(train: tuple, test: tuple) -> list[float]:
    """The floor: what can be had without an encoder."""
    return evaluate(lambda pictures: pictures.flatten(1), train, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--subset", type=int, default=5000, help="only the first N training pictures")
    parser.add_argument("--test-subset", type=int, help="only the first N test pictures")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = (read_cifar10(args.data_dir, *s) for s in [("train", args.subset), ("test", args.test_subset)])
    torch.manual_seed(args.seed)
    model = new_model(args.arch, args.width)
    results = {"raw pixels": evaluate_pixels(train, test), "random encoder": evaluate_model(model, train, test)}
    pretrain(model, train[0], args.batch, args.epochs, args.lr)
    results["trained"] = evaluate_model(model, train, test)
    for name, (course, literature) in results.items():
        print(f"{name:14}   kNN, k = 200: {course:7.2%}   k = 10: {literature:7.2%}")


if __name__ == "__main__":
    main()
