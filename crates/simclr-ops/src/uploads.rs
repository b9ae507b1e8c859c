//! Bytes on their way to a device.

use candle_core::{Device, Shape, Tensor};

use crate::error::OpsError;

/// Sends bytes to a device again and again, without waiting for what it is doing. On a GPU they leave from page-locked memory in two
/// parts, of which one is filled while the other is copied; it is kept from one time to the next.
///
/// One for every kind of bytes: the memory is made anew when they become more.
#[derive(Debug, Default)]
pub struct Uploads {
    #[cfg(feature = "cuda")]
    departing: crate::cuda::Departing,
}

impl Uploads {
    /// `bytes` as a tensor of u8 on `device`.
    ///
    /// # Shapes
    /// Returns `shape`, which has as many elements as there are bytes.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if it has not, or if there is no memory for them.
    pub fn send(&self, bytes: &[u8], shape: impl Into<Shape>, device: &Device) -> Result<Tensor, OpsError> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            if shape.elem_count() != bytes.len() {
                let message = format!("{} bytes are no tensor of shape {shape:?}", bytes.len());
                return Err(candle_core::Error::Msg(message).into());
            }
            return self.departing.send(bytes, shape, device);
        }
        Ok(Tensor::from_slice(bytes, shape, device)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What was sent arrives, whatever is sent before it has.
    pub(crate) fn bytes_get_there(device: &Device) {
        let uploads = Uploads::default();
        // Each is looked at after all have left; the fourth has another length.
        let sent = [6, 6, 6, 12, 12, 6].into_iter().enumerate().map(|(i, len)| {
            let bytes: Vec<u8> = (0..len).map(|j| (40 * i + j) as u8).collect();
            let tensor = uploads.send(&bytes, (len / 3, 3), device).unwrap();
            (bytes, tensor)
        });
        for (bytes, tensor) in sent.collect::<Vec<_>>() {
            assert_eq!(tensor.flatten_all().unwrap().to_vec1::<u8>().unwrap(), bytes);
        }
        assert!(uploads.send(&[1, 2, 3], (2, 2), device).is_err());
    }

    #[test]
    fn bytes_get_to_the_cpu() {
        bytes_get_there(&Device::Cpu);
    }
}
