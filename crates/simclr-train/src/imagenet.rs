//! The first question of anyone with own pictures: does training beat an encoder that somebody else trained on ImageNet?

use candle_core::Device;
use simclr_data::{Normalization, TestTransform};
use simclr_model::Model;
use simclr_ops::Context;

use crate::cli::ImageNetArguments;

/// Side of the pictures that such encoders were trained on.
const SIDE: u32 = 224;

/// A frozen encoder of torchvision's, and pictures as it knows them: resized so that the shorter side is 8/7 of what is cut from the
/// middle (256 for 224), and normalised by ImageNet's mean and deviation.
pub(crate) struct ImageNet {
    pub(crate) model: Model,
    pub(crate) transform: TestTransform,
}

impl ImageNet {
    /// What stands above its column.
    pub(crate) const NAME: &'static str = "ImageNet encoder";

    /// As typed; none if no file was.
    ///
    /// # Errors
    /// If the file has no such encoder, or the side is 0.
    pub(crate) fn of(arguments: &ImageNetArguments, device: &Device) -> anyhow::Result<Option<Self>> {
        let Some(path) = &arguments.imagenet else { return Ok(None) };
        let transform = TestTransform::new(Some(arguments.imagenet_size.unwrap_or(SIDE)), Normalization::IMAGENET)?;
        Ok(Some(Self { model: Model::load(path, device, &Context::new())?, transform }))
    }
}
