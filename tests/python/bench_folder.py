#!/usr/bin/env python3
"""Views per second of the usual Python stacks on a folder of JPEG files, decoding included: what `bench augment --data folder:DIR`
is compared with.

    bench_folder.py DIR [SIZE]

One thread; a file is decoded once for its two views, as a pair data set does. Random resized crop to SIZE (224), flip, colour
jitter (0.4, 0.4, 0.4, 0.1) with p = 0.8, gray with p = 0.2, normalised to float. Needs torch, torchvision, albumentations and
opencv-python-headless. Each stack goes through the folder twice; the second time counts.
"""

import json
import sys
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import io
from torchvision import transforms as T
from torchvision.transforms import v2

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main():
    files = sorted(str(path) for path in Path(sys.argv[1]).rglob("*.jpg"))
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    pil = T.Compose(
        [
            T.RandomResizedCrop(size),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    tensor = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    album = A.Compose(
        [
            A.RandomResizedCrop(size=(size, size)),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            A.ToGray(p=0.2),
            A.Normalize(MEAN, STD),
        ]
    )

    def with_pillow(file):
        image = Image.open(file).convert("RGB")
        return pil(image), pil(image)

    def with_io(file):
        image = io.read_image(file, io.ImageReadMode.RGB)
        return tensor(image), tensor(image)

    def with_opencv(file):
        image = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)
        views = [album(image=image)["image"].transpose(2, 0, 1) for _ in range(2)]
        return [torch.from_numpy(np.ascontiguousarray(view)) for view in views]

    stacks = {"torchvision, Pillow": with_pillow, "torchvision.io, v2": with_io, "albumentations, OpenCV": with_opencv}
    for name, views in stacks.items():
        for _ in range(2):
            began = time.perf_counter()
            for file in files:
                views(file)
            seconds = time.perf_counter() - began
        print(json.dumps({"stack": name, "size": size, "views_per_s": round(2 * len(files) / seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
