"""pictures.safetensors: small files of many kinds (`file.NAME`), and what PIL makes of each (`pixels.NAME`).

The expected pixels are PIL's after `ImageOps.exif_transpose`, in RGB as a person expects them: transparent pixels lie on white
(PIL's own `convert` shows what is under them), 16 bits are divided by 257.
"""

import io
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from safetensors.numpy import save_file

WIDTH, HEIGHT = 24, 16


def smooth():
    """Something that JPEG does not spoil."""
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    channels = [40 + 8 * x, 200 - 6 * y - 2 * x, 90 + 3 * x + 4 * y]
    return np.stack(channels, axis=-1).astype(np.uint8)


def alpha():
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    return ((x * 255 // (WIDTH - 1) + y * 3) % 256).astype(np.uint8)


def on_white(rgba):
    color, a = rgba[..., :3].astype(np.int64), rgba[..., 3:].astype(np.int64)
    return ((color * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def files():
    """(name, bytes, expected pixels or None for PIL's own)."""
    rgb = Image.fromarray(smooth(), "RGB")
    rgba_pixels = np.concatenate([smooth(), alpha()[..., None]], axis=-1)
    rgba = Image.fromarray(rgba_pixels, "RGBA")
    gray = rgb.convert("L")
    yield "plain.jpg", encoded(rgb, "JPEG", quality=95), None
    yield "progressive.jpg", encoded(rgb, "JPEG", quality=95, progressive=True), None
    yield "subsampled.jpg", encoded(rgb, "JPEG", quality=95, subsampling=2), None
    yield "gray.jpg", encoded(gray, "JPEG", quality=95), None
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG", quality=95), None
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation-{orientation}.jpg", encoded(rgb, "JPEG", quality=95, exif=exif), None
    yield "plain.png", encoded(rgb, "PNG"), None
    yield "gray.png", encoded(gray, "PNG"), None
    yield "bits.png", encoded(gray.convert("1"), "PNG"), None
    yield "palette.png", encoded(rgb.quantize(16), "PNG"), None
    clear = rgb.quantize(16)
    shown = np.concatenate([np.asarray(clear.convert("RGB")), np.where(np.asarray(clear) == 3, 0, 255)[..., None]], -1)
    yield "palette-clear.png", encoded(clear, "PNG", transparency=3), on_white(shown)
    yield "clear.png", encoded(rgba, "PNG"), on_white(rgba_pixels)
    gray_alpha = np.asarray(gray)
    both = Image.fromarray(np.stack([gray_alpha, alpha()], -1), "LA")
    yield "gray-clear.png", encoded(both, "PNG"), on_white(np.stack([gray_alpha] * 3 + [alpha()], -1))
    deep = (np.asarray(gray).astype(np.uint16) * 256 + 77).astype(np.uint16)
    rounded = np.repeat(((deep.astype(np.int64) + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    yield "gray-16.png", encoded(Image.fromarray(deep), "PNG"), rounded
    yield "gray-16.tif", encoded(Image.fromarray(deep), "TIFF"), rounded
    yield "plain.bmp", encoded(rgb, "BMP"), None
    yield "palette.bmp", encoded(rgb.quantize(16), "BMP"), None
    yield "plain.gif", encoded(rgb.quantize(16), "GIF"), None
    frames = [rgb.quantize(16), ImageOps.invert(rgb).quantize(16)]
    yield "moving.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None
    yield "plain.tif", encoded(rgb, "TIFF"), None
    yield "lzw.tif", encoded(rgb, "TIFF", compression="tiff_lzw"), None
    yield "deflate.tif", encoded(rgb, "TIFF", compression="tiff_deflate"), None
    yield "cmyk.tif", encoded(rgb.convert("CMYK"), "TIFF"), None
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True), None
    yield "lossy.webp", encoded(rgb, "WEBP", quality=95), None
    yield "clear.webp", encoded(rgba, "WEBP", lossless=True, exact=True), on_white(rgba_pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "orientation-6.png", encoded(rgb, "PNG", exif=exif), None
    yield "orientation-6.webp", encoded(rgb, "WEBP", lossless=True, exif=exif), None


def make(out_dir):
    tensors = {}
    for name, data, expected in files():
        if expected is None:
            expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        tensors[f"file.{name}"] = np.frombuffer(data, dtype=np.uint8)
        tensors[f"pixels.{name}"] = np.ascontiguousarray(expected)
    versions = {"made with": f"torch {torch.__version__}, Pillow {PIL.__version__}"}
    save_file(tensors, Path(out_dir) / "pictures.safetensors", metadata=versions)


if __name__ == "__main__":
    make(Path(__file__).parent)
