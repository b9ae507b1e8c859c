"""torch_sampler.safetensors: batches of PyTorch's own loader with torchvision's transforms, by checksum.

Pictures are made by `picture` below and by the same formula in the Rust test. `cases` has a row for each loader: seed (as two
halves), workers, batch size, views per picture, number of the recipe. `crcs.N` has the CRC-32 of the float32 bytes of every batch
of case N, view by view; `first.N` the first numbers of its first batch, to make a difference readable.
"""

import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

PICTURES = 60
SIZES = [(32, 32), (32, 32), (47, 33), (21, 60), (90, 10)]
SEEDS = [0, 1, 123456, 2147483647, 2**32 + 5, -3]


def picture(index):
    width, height = SIZES[index % len(SIZES)]
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    values = (x * (5 + index % 7) + y * (3 + index % 5) + c * 40 + x * y * (index % 3)) % 256
    return Image.fromarray(values.astype(np.uint8), "RGB")


class Pictures(Dataset):
    def __init__(self, transform, views):
        self.transform, self.views = transform, views

    def __len__(self):
        return PICTURES

    def __getitem__(self, index):
        image = picture(index)
        return [self.transform(image) for _ in range(self.views)]


def recipe(number, size=32):
    """The course's, and others that draw more, less or other numbers."""
    jitter = [(0.4, 0.4, 0.4, 0.1), (0.8, 0.8, 0.8, 0.2), (0.4, 0.0, 1.5, 0.0)][number]
    steps = [
        T.RandomResizedCrop(size, scale=[(0.08, 1.0), (0.2, 1.0), (0.9, 1.0)][number]),
        T.RandomHorizontalFlip(p=[0.5, 0.5, 1.0][number]),
        T.RandomApply([T.ColorJitter(*jitter)], p=[0.8, 0.8, 1.0][number]),
        T.RandomGrayscale(p=[0.2, 0.1, 0.0][number]),
    ]
    if number == 1:
        steps.append(T.RandomSolarize(128, p=0.3))
    return T.Compose(steps + [T.ToTensor(), T.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])])


def loaders():
    for seed in SEEDS:
        for workers in [0, 1, 2]:
            yield seed, workers, 2, 1, 0
    for seed, workers, batch, views, kind in [(7, 0, 5, 2, 0), (7, 1, 5, 2, 0), (7, 2, 7, 2, 0), (7, 3, 7, 2, 1), (9, 0, 60, 2, 1), (9, 2, 4, 1, 2)]:
        yield seed, workers, batch, views, kind


def make(out_dir):
    tensors, cases = {}, []
    for number, (seed, workers, batch, views, kind) in enumerate(loaders()):
        torch.manual_seed(seed)
        loader = DataLoader(Pictures(recipe(kind), views), batch_size=batch, shuffle=False, num_workers=workers)
        crcs = []
        for made in loader:
            crcs.append([zlib.crc32(view.numpy().tobytes()) for view in made])
            tensors.setdefault(f"first.{number}", made[0].flatten()[:8].numpy())
        tensors[f"crcs.{number}"] = np.array(crcs, dtype=np.int64)
        unsigned = seed % 2**64
        cases.append((unsigned >> 32, unsigned & 0xFFFFFFFF, workers, batch, views, kind))
    tensors["cases"] = np.array(cases, dtype=np.int64)
    versions = {"made with": f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"}
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, Path(out_dir) / "torch_sampler.safetensors", metadata=versions)


if __name__ == "__main__":
    make(Path(__file__).parent)
