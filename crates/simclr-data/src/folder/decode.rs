//! From the bytes of a file to the canonical picture.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits, RgbImage, Rgba, metadata::Orientation};
use simclr_ops::augment::Picture;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::transform::resized;

/// What decides the bits of canonical pictures beside their shorter side: raised when decoding changes.
pub(super) const VERSION: u32 = 1;

/// The formats that are read.
const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff];

/// Most pixels of a picture: PIL's own limit against bombs, 2 GiB / 4 / 3.
const MOST_PIXELS: u64 = 178_956_970;

/// Most memory that a decoder may take beside the picture.
const MOST_MEMORY: u64 = 2 << 30;

/// Bytes by which formats are told.
pub(super) const MAGIC: usize = 32;

/// Whether a file begins like a picture that is read here.
pub(super) fn is_picture(first: &[u8]) -> bool {
    image::guess_format(first).is_ok_and(|format| FORMATS.contains(&format))
}

/// Decodes the whole of a file: the first frame, turned as its EXIF orientation says, in 8-bit RGB.
///
/// 16-bit channels are rounded to 8; floats are cut to 0 to 1; what is transparent is laid over white; CMYK becomes RGB by the
/// decoder's plain formula. Colour profiles are not applied.
///
/// # Errors
/// Why the bytes are no picture: one line for people. No bytes make it panic, or take more than some gigabytes.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    // Decoders are other people's code on other people's files.
    catch_unwind(AssertUnwindSafe(|| decode_trusting(bytes)))
        .unwrap_or_else(|_| Err("its decoder failed: the file is damaged".into()))
}

fn decode_trusting(bytes: &[u8]) -> Result<Picture, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let Some(format) = reader.format().filter(|format| FORMATS.contains(format)) else {
        return Err("its content is no JPEG, PNG, WebP, BMP, GIF or TIFF".into());
    };
    if format == ImageFormat::Jpeg {
        return decode_jpeg(bytes);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(too_large(width.into(), height.into()));
    }
    // A damaged orientation is none.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    let (width, height) = (image.width(), image.height());
    let pixels = if image.color().has_alpha() {
        image.into_rgba8().pixels().flat_map(over_white).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Picture::new(width, height, pixels).map_err(|error| error.to_string())
}

/// A JPEG, by the decoder that `image` has too: it reads the headers four times, and copies the file.
fn decode_jpeg(bytes: &[u8]) -> Result<Picture, String> {
    if !jpeg_ends(bytes) {
        return Err("the JPEG is cut short: it has no end marker".into());
    }
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG has no size")?;
    if (width * height) as u64 > MOST_PIXELS {
        return Err(too_large(width as u64, height as u64));
    }
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let (width, height) = (width as u32, height as u32);
    let picture = Picture::new(width, height, pixels).map_err(|error| error.to_string())?;
    match orientation {
        None | Some(Orientation::NoTransforms) => Ok(picture),
        Some(orientation) => {
            let image = RgbImage::from_raw(width, height, picture.into_pixels()).ok_or("the JPEG lacks pixels")?;
            let mut image = DynamicImage::from(image);
            image.apply_orientation(orientation);
            Picture::new(image.width(), image.height(), image.into_rgb8().into_raw()).map_err(|error| error.to_string())
        }
    }
}

fn too_large(width: u64, height: u64) -> String {
    format!("{width} x {height} pixels, more than the {MOST_PIXELS} that are read")
}

/// A colour as it looks on white paper.
fn over_white(&Rgba([red, green, blue, alpha]): &Rgba<u8>) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [red, green, blue].map(|channel| ((u32::from(channel) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// Whether the last scan of a JPEG has an end. Decoders make up gray for what is missing.
fn jpeg_ends(bytes: &[u8]) -> bool {
    // Inside of a scan 0xff is never followed by these. A thumbnail ends too, but then the scan of the picture follows.
    let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]);
    end.is_some_and(|end| !bytes[end..].windows(2).any(|pair| pair == [0xff, 0xda]))
}

/// A picture whose shorter side is no longer than `shorter` (torchvision's `Resize(shorter)` on a PIL picture, to the bit, for
/// those that are larger).
pub(super) fn shrunk(picture: Picture, shorter: Option<u32>) -> Picture {
    match shorter {
        Some(shorter) if shorter < picture.width().min(picture.height()) => resized(&picture, shorter),
        _ => picture,
    }
}
