//! Augmentation of pixels, to the bit as torchvision does it on PIL images.
//!
//! Sampling parameters and applying them are two things: [`ViewParameters`] says what happens to a picture, and
//! [`Augmenter::view`] makes it happen, without any randomness. The single steps are public too: [`resized_crop`],
//! [`horizontal_flip`], [`adjust_brightness`], [`adjust_contrast`], [`adjust_saturation`], [`adjust_hue`], [`grayscale`],
//! [`gaussian_blur`], [`solarize`]. They are the specification; an augmenter makes the same bits faster (`fast/`).
//!
//! "To the bit" means: given the same 8-bit RGB picture and the same parameters, every byte after every step equals that
//! of `torchvision.transforms.functional` on a `PIL.Image` (as PIL computes on x86-64, where nothing is contracted to
//! fused multiply-adds). `tests/golden/augment.safetensors` holds it to that. The blur alone, which PIL has not in this form, is
//! torchvision's to a unit in few bytes.
//!
//! [`make_views`] makes many views at once of pictures that are on a device, the same bits on a GPU (`cuda.cu`) as here.
//!
//! ```
//! use simclr_ops::augment::{Augmenter, Crop, Picture, ViewParameters};
//! let picture = Picture::filled(40, 30, [200, 100, 50]);
//! let parameters = ViewParameters { crop: Crop { left: 4, top: 2, width: 16, height: 20 }, flip: true, jitter: None, grayscale: true, blur: None, solarize: None };
//! let view = Augmenter::new().view(&picture, &parameters, 32, 32);
//! assert_eq!((view.width(), view.height()), (32, 32));
//! assert_eq!(view.pixels()[..3], [124, 124, 124]);
//! ```

mod batch;
mod blur;
mod color;
#[cfg(feature = "cuda")]
mod cuda;
mod fast;
mod geometry;
#[cfg(test)]
mod golden;
mod hue;
mod packed;
mod parameters;
mod picture;
mod planes;
mod reference;
mod resize;
mod view;

pub use batch::{LARGEST_VIEW, Numbers, make_views};
pub use blur::{blur_radius, gaussian_blur, gaussian_kernel};
pub use color::{adjust_brightness, adjust_contrast, adjust_saturation, grayscale, luma, solarize};
pub use geometry::horizontal_flip;
pub use hue::{adjust_hue, hsv_to_rgb, rgb_to_hsv};
pub use packed::PackedViews;
pub use parameters::{Adjustment, Crop, Jitter, ViewParameters};
pub use picture::{Picture, PictureError};
pub use planes::Planes;
pub use resize::{Resizer, resized_crop};
pub use view::{Augmenter, Step};
