//! What a random view is: every range and probability of the augmentation.

use serde::{Deserialize, Serialize};

use crate::DataError;

/// The distribution of views. The default is the course's: torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`,
/// `RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)`, `RandomGrayscale(p=0.2)`, in this order; blur and solarization,
/// which it has not, come last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Least and greatest area of the crop, as parts of the picture's.
    pub crop_scale: [f64; 2],
    /// Least and greatest width over height of the crop, drawn evenly by its logarithm.
    pub crop_ratio: [f64; 2],
    /// How often left and right change places.
    pub flip_probability: f64,
    /// How often the colours are jittered; 0 for never.
    pub jitter_probability: f64,
    /// Brightness factors lie in `[max(0, 1 - brightness), 1 + brightness]`; 0 skips the step.
    pub brightness: f64,
    /// Contrast factors lie in `[max(0, 1 - contrast), 1 + contrast]`; 0 skips the step.
    pub contrast: f64,
    /// Saturation factors lie in `[max(0, 1 - saturation), 1 + saturation]`; 0 skips the step.
    pub saturation: f64,
    /// Hues turn by `[-hue, hue]` of the circle; 0 skips the step.
    pub hue: f64,
    /// How often the view loses its colours.
    pub grayscale_probability: f64,
    /// How often the view is blurred; 0.5 in the paper's recipe for ImageNet, never in the one for CIFAR-10.
    pub blur_probability: f64,
    /// Least and greatest deviation of the Gaussian, in pixels of the view.
    pub blur_sigma: [f64; 2],
    /// How often the light channels turn into their negative; no recipe of SimCLR does it, BYOL's second view does.
    pub solarize_probability: f64,
    /// From which byte on.
    pub solarize_threshold: u8,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            crop_scale: [0.08, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip_probability: 0.5,
            jitter_probability: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
            grayscale_probability: 0.2,
            blur_probability: 0.0,
            blur_sigma: [0.1, 2.0],
            solarize_probability: 0.0,
            solarize_threshold: 128,
        }
    }
}

impl Recipe {
    /// # Errors
    /// [`DataError::Setting`] with the name of the first field whose value cannot be.
    pub fn validate(&self) -> Result<(), DataError> {
        let range = |field, [low, high]: [f64; 2], most: f64, expected| {
            check(low > 0.0 && low <= high && high <= most, field, format!("[{low}, {high}]"), expected)
        };
        range("recipe.crop_scale", self.crop_scale, 1.0, "two numbers with 0 < least <= greatest <= 1")?;
        range("recipe.crop_ratio", self.crop_ratio, f64::MAX, "two finite numbers with 0 < least <= greatest")?;
        range("recipe.blur_sigma", self.blur_sigma, f64::MAX, "two finite numbers with 0 < least <= greatest")?;
        for (field, probability) in [
            ("recipe.flip_probability", self.flip_probability),
            ("recipe.jitter_probability", self.jitter_probability),
            ("recipe.grayscale_probability", self.grayscale_probability),
            ("recipe.blur_probability", self.blur_probability),
            ("recipe.solarize_probability", self.solarize_probability),
        ] {
            check((0.0..=1.0).contains(&probability), field, probability.to_string(), "a probability from 0 to 1")?;
        }
        for (field, strength) in [
            ("recipe.brightness", self.brightness),
            ("recipe.contrast", self.contrast),
            ("recipe.saturation", self.saturation),
        ] {
            check(strength.is_finite() && strength >= 0.0, field, strength.to_string(), "a finite number from 0 up")?;
        }
        check((0.0..=0.5).contains(&self.hue), "recipe.hue", self.hue.to_string(), "a part of the circle from 0 to 0.5")
    }
}

fn check(holds: bool, field: &'static str, found: String, expected: &'static str) -> Result<(), DataError> {
    if holds { Ok(()) } else { Err(DataError::Setting { field, found, expected }) }
}

#[cfg(test)]
mod tests {
    use super::Recipe;

    #[test]
    fn every_wrong_field_is_named() {
        Recipe::default().validate().unwrap();
        type Break = fn(&mut Recipe);
        let cases: [(&str, Break); 17] = [
            ("recipe.crop_scale is [0, 1], expected two numbers with 0 < least <= greatest <= 1", |r| {
                r.crop_scale[0] = 0.0
            }),
            ("recipe.crop_scale is [0.5, 0.4]", |r| r.crop_scale = [0.5, 0.4]),
            ("recipe.crop_scale is [0.08, 1.1]", |r| r.crop_scale[1] = 1.1),
            ("recipe.crop_scale is [NaN, 1]", |r| r.crop_scale[0] = f64::NAN),
            ("recipe.crop_ratio is [-1, 2], expected two finite numbers", |r| r.crop_ratio = [-1.0, 2.0]),
            ("recipe.crop_ratio is [1, inf]", |r| r.crop_ratio = [1.0, f64::INFINITY]),
            ("recipe.flip_probability is 1.5, expected a probability from 0 to 1", |r| r.flip_probability = 1.5),
            ("recipe.jitter_probability is -0.1", |r| r.jitter_probability = -0.1),
            ("recipe.grayscale_probability is NaN", |r| r.grayscale_probability = f64::NAN),
            ("recipe.blur_probability is 2", |r| r.blur_probability = 2.0),
            ("recipe.blur_sigma is [0, 2], expected two finite numbers", |r| r.blur_sigma[0] = 0.0),
            ("recipe.solarize_probability is -1", |r| r.solarize_probability = -1.0),
            ("recipe.brightness is -1, expected a finite number from 0 up", |r| r.brightness = -1.0),
            ("recipe.contrast is inf", |r| r.contrast = f64::INFINITY),
            ("recipe.saturation is NaN", |r| r.saturation = f64::NAN),
            ("recipe.hue is 0.6, expected a part of the circle from 0 to 0.5", |r| r.hue = 0.6),
            ("recipe.hue is -0.1", |r| r.hue = -0.1),
        ];
        for (message, break_it) in cases {
            let mut recipe = Recipe::default();
            break_it(&mut recipe);
            let found = recipe.validate().unwrap_err().to_string();
            assert!(found.starts_with(message), "{found}");
        }
    }

    #[test]
    fn settings_are_read_and_written_by_name() {
        let written = serde_json::to_string(&Recipe { hue: 0.25, ..Recipe::default() }).unwrap();
        let read: Recipe = serde_json::from_str(&written).unwrap();
        assert_eq!(read, Recipe { hue: 0.25, ..Recipe::default() });
        let partial: Recipe = serde_json::from_str(r#"{"crop_scale": [0.2, 1.0]}"#).unwrap();
        assert_eq!(partial, Recipe { crop_scale: [0.2, 1.0], ..Recipe::default() });
        let error = serde_json::from_str::<Recipe>(r#"{"crop_scales": [0.2, 1.0]}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `crop_scales`"), "{error}");
    }
}
