"""augment.safetensors: what torchvision's functional transforms do to PIL pictures, after every step.

The pictures are made by `picture` below and by the same formula in the Rust test, so that only parameters and results are
stored: the bytes of every step for the first few cases, a CRC-32 of them for all. Colour conversions, blends and the steps of the
jitter have so few inputs that all of them are covered.
"""

import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import CenterCrop, ColorJitter, Compose, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

CASES = 320
CASES_WITH_BYTES = 12
STEPS = 7  # resized crop, flip, four of jitter, gray


def picture(kind, width, height):
    """Even kinds are rough, odd ones smooth."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    if kind % 2 == 0:
        values = (x * 73 + y * 151 + c * 199 + kind * 101 + x * y * (c + 3) % 97 * 5) % 256
    else:
        wave = (x * (c + 1) * 5 + y * (3 - c) * 4 + kind * 29) % 510
        values = np.where(wave > 255, 510 - wave, wave)
    return Image.fromarray(values.astype(np.uint8), "RGB")


def crc(data):
    return zlib.crc32(bytes(data))


def draw_cases(rng):
    """Parameters: mostly the course's distribution, then the corners."""
    sources = [(32, 32), (47, 61), (61, 47), (33, 31), (32, 32), (150, 224), (5, 3), (1, 1)]
    outputs = [(32, 32)] * 5 + [(24, 24), (40, 28), (1, 2)]
    scale = [0.08, 1.0]
    edge_factors = [0.0, 1.0, 0.5, 2.5, 1e-3, 0.999]
    edge_hues = [0.0, 0.5, -0.5, 1 / 255, -1 / 255, 0.25]
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    for case in range(CASES):
        width, height = sources[case % len(sources)]
        out = outputs[case // len(sources) % len(outputs)] if case >= CASES_WITH_BYTES else (32, 32)
        blank = Image.new("RGB", (width, height))
        top, left, crop_height, crop_width = RandomResizedCrop.get_params(blank, scale, [3 / 4, 4 / 3])
        if case % 16 == 7:  # a single pixel
            top, left, crop_height, crop_width = rng.integers(height), rng.integers(width), 1, 1
        if case % 16 == 9:  # one row
            top, left, crop_height, crop_width = rng.integers(height), 0, 1, width
        if case % 16 == 11:  # one column
            top, left, crop_height, crop_width = 0, rng.integers(width), height, 1
        if case % 16 == 13:  # everything
            top, left, crop_height, crop_width = 0, 0, height, width
        order, *factors = ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        if case % 5 == 4:
            factors = [float(rng.choice(edge_factors)) for _ in range(3)] + [float(rng.choice(edge_hues))]
        factors = [factor if case % 7 != 6 or rng.random() < 0.5 else None for factor in factors]
        yield {
            "source": (case, width, height),
            "crop": (left, top, crop_width, crop_height),
            "size": out,
            "flip": rng.random() < 0.5,
            "jitter": rng.random() < 0.8,
            "order": order.tolist(),
            "factors": factors,
            "grayscale": rng.random() < 0.2,
        }


def apply(case):
    """The picture after each of the seven steps; None where a step does nothing."""
    after = [None] * STEPS
    left, top, crop_width, crop_height = map(int, case["crop"])
    width, height = case["size"]
    image = F.resized_crop(picture(*case["source"]), top, left, crop_height, crop_width, (height, width))
    after[0] = image
    if case["flip"]:
        after[1] = image = F.hflip(image)
    if case["jitter"]:
        adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
        for position, step in enumerate(case["order"]):
            if case["factors"][step] is not None:
                after[2 + position] = image = adjust[step](image, case["factors"][step])
    if case["grayscale"]:
        after[6] = image = F.rgb_to_grayscale(image, num_output_channels=3)
    return after


def all_colours():
    grid = np.arange(1 << 24, dtype=np.uint32)
    colours = np.stack([grid >> 16, grid >> 8 & 255, grid & 255], axis=-1).astype(np.uint8)
    return colours.reshape(4096, 4096, 3)


COLOUR_STEPS = [
    (F.adjust_brightness, [0.0, 0.6, 0.95, 1.0, 1.4, 2.5]),
    (F.adjust_contrast, [0.0, 0.6, 1.0, 1.4]),
    (F.adjust_saturation, [0.0, 0.6, 0.95, 1.0, 1.4, 2.5]),
    (F.adjust_hue, [-0.5, -0.1, -1 / 255, 0.0, 1 / 255, 0.07, 0.1, 0.5]),
]


def colour_step_crcs(rgb):
    """Every step of the jitter and the gray, on all colours at once."""
    crcs = [(step, factor, crc(F_step(rgb, factor).tobytes())) for step, (F_step, factors) in enumerate(COLOUR_STEPS) for factor in factors]
    gray = crc(F.rgb_to_grayscale(rgb, num_output_channels=3).tobytes())
    return crcs + [(len(COLOUR_STEPS), 0.0, gray)]


def blurs():
    """(kind, width, height, radius, sigma) and the blurred picture."""
    for kind, radius, sigma in [(0, 1, 0.1), (1, 1, 0.7), (2, 2, 2.0), (3, 4, 1.1), (4, 11, 2.0), (5, 11, 0.5), (6, 1, 2.0), (7, 0, 1.0)]:
        width, height = (41, 24) if kind % 2 == 0 else (24, 33)
        kernel = 2 * radius + 1
        yield (kind, width, height, radius, sigma), F.gaussian_blur(picture(kind, width, height), [kernel, kernel], [sigma, sigma])


def middles():
    """Pictures as the networks of ImageNet are tested: (width, height, size) and the pixels."""
    for width, height, size in [(47, 61, 24), (61, 47, 24), (30, 30, 24), (24, 24, 21), (100, 33, 32), (12, 12, 20)]:
        y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
        image = Image.fromarray(((x * 7 + y * 13 + x * y + c * 50) % 256).astype(np.uint8), "RGB")
        yield (width, height, size), Compose([Resize(size + size // 7), CenterCrop(size)])(image)


def axis_crcs():
    """Rows and columns of every length up to 256, resized to 32."""
    rows = []
    for length in range(1, 257):
        row = F.resize(picture(length, length, 1), (1, 32)).tobytes()
        column = F.resize(picture(length, 1, length), (32, 1)).tobytes()
        rows.append((crc(row), crc(column)))
    return np.array(rows, dtype=np.int64)


def make(out_dir):
    torch.manual_seed(20)
    rng = np.random.default_rng(20)
    cases = list(draw_cases(rng))
    tensors = {}
    crcs = np.full((CASES, STEPS), -1, dtype=np.int64)
    for number, case in enumerate(cases):
        for step, image in enumerate(apply(case)):
            if image is not None:
                crcs[number, step] = crc(image.tobytes())
                if number < CASES_WITH_BYTES:
                    tensors[f"bytes.{number}.{step}"] = np.asarray(image)

    missing = float("nan")
    column = lambda name, dtype: np.array([case[name] for case in cases], dtype=dtype)
    tensors["sources"] = column("source", np.int64)
    tensors["crops"] = column("crop", np.int64)
    tensors["sizes"] = column("size", np.int64)
    tensors["orders"] = column("order", np.int64)
    tensors["switches"] = np.stack([column(name, np.int64) for name in ["flip", "jitter", "grayscale"]], axis=1)
    tensors["factors"] = np.array(
        [[missing if f is None else f for f in case["factors"]] for case in cases], dtype=np.float64
    )
    tensors["crcs"] = crcs
    tensors["axis_crcs"] = axis_crcs()

    # Every colour, in both directions, and its gray; every pair of bytes under a number of blends.
    colours = all_colours()
    rgb = Image.fromarray(colours, "RGB")
    conversions = [rgb.convert("HSV"), Image.fromarray(colours, "HSV").convert("RGB"), rgb.convert("L")]
    tensors["conversion_crcs"] = np.array([crc(image.tobytes()) for image in conversions], dtype=np.int64)
    step_crcs = colour_step_crcs(rgb)
    tensors["colour_steps"] = np.array([(step, factor) for step, factor, _ in step_crcs], dtype=np.float64)
    tensors["colour_step_crcs"] = np.array([crc for _, _, crc in step_crcs], dtype=np.int64)
    for number, (case, image) in enumerate(blurs()):
        tensors[f"blur.{number}.case"] = np.array(case, dtype=np.float64)
        tensors[f"blur.{number}.bytes"] = np.asarray(image)
    for number, (case, image) in enumerate(middles()):
        tensors[f"middle.{number}.case"] = np.array(case, dtype=np.int64)
        tensors[f"middle.{number}.bytes"] = np.asarray(image)
    bytes_ = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "L")
    thresholds = [0, 1, 100, 128, 255]
    tensors["solarize_thresholds"] = np.array(thresholds, dtype=np.int64)
    tensors["solarize_crcs"] = np.array([crc(F.solarize(bytes_, t).tobytes()) for t in thresholds], dtype=np.int64)
    pairs = np.arange(1 << 16).reshape(256, 256)
    first, second = (Image.fromarray(side.astype(np.uint8), "L") for side in (pairs >> 8, pairs & 255))
    factors = [0.0, 1.0, 0.9, 2.5, 1e-3] + [float(torch.empty(1).uniform_(0.6, 1.4)) for _ in range(43)]
    tensors["blend_factors"] = np.array(factors, dtype=np.float64)
    tensors["blend_crcs"] = np.array([crc(Image.blend(first, second, f).tobytes()) for f in factors], dtype=np.int64)

    # All bytes through the course's ToTensor and Normalize.
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2), "RGB")
    normalized = F.normalize(F.to_tensor(ramp), [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    tensors["normalized"] = normalized[:, 0, :].contiguous().numpy()

    # One entry: several would be written in any order, and the same values would not make the same file.
    versions = {"made with": f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, Path(out_dir) / "augment.safetensors", metadata=versions)


if __name__ == "__main__":
    make(Path(__file__).parent)
