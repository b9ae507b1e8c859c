//! TensorBoard's event files: records of protocol buffers (tensorflow/core/util/event.proto, framework/summary.proto).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use prost::Message;

use crate::run_folder::write_whole;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// Numbers of one step, each under its tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scalars {
    /// Seconds since 1970.
    pub(crate) time: f64,
    pub(crate) step: u64,
    pub(crate) values: Vec<(&'static str, f64)>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Writes the file anew with what is `kept`, to append to it. What a reader has open is the old file: it sees the new one
    /// when it looks for files again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(path: &Path, kept: impl Iterator<Item = Scalars>) -> anyhow::Result<Self> {
        let cannot = || path.display().to_string();
        let version = Event { file_version: Some("brain.Event:2".into()), ..Event::default() };
        let mut bytes = record(&version);
        kept.for_each(|scalars| bytes.extend(record(&event(&scalars))));
        write_whole(path, &bytes).with_context(cannot)?;
        let file = OpenOptions::new().append(true).open(path).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds an event.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn add(&mut self, scalars: &Scalars) -> anyhow::Result<()> {
        self.file.write_all(&record(&event(scalars))).with_context(|| self.path.display().to_string())
    }
}

fn event(scalars: &Scalars) -> Event {
    let value = |(tag, value): &(&str, f64)| Value { tag: (*tag).to_owned(), simple_value: *value as f32 };
    let summary = Summary { value: scalars.values.iter().map(value).collect() };
    Event { wall_time: scalars.time, step: scalars.step as i64, file_version: None, summary: Some(summary) }
}

/// Length, its checksum, content, its checksum: TFRecord.
fn record(event: &Event) -> Vec<u8> {
    let content = event.encode_to_vec();
    let length = (content.len() as u64).to_le_bytes();
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    [&length[..], &masked(&length), &content, &masked(&content)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_bytes_of_tensorboard_s_own_writer() {
        // tensorboard.compat.proto.event_pb2.Event(wall_time=1.5, step=7, summary=Summary(value=[Value(tag="loss",
        // simple_value=0.25)])).SerializeToString(), and the same through RecordWriter.
        let scalars = Scalars { time: 1.5, step: 7, values: vec![("loss", 0.25)] };
        let content = event(&scalars).encode_to_vec();
        let expected = b"\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\x07\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x80\x3e";
        assert_eq!(content, expected);
        let record = record(&event(&scalars));
        assert_eq!(record[..12], [26, 0, 0, 0, 0, 0, 0, 0, 18, 155, 216, 45]);
        assert_eq!((&record[12..38], &record[38..]), (&expected[..], &[201, 208, 123, 141][..]));
    }
}
