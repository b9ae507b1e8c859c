//! Parquet: columns `path`, `label` and `vector`, the last a list as Arrow writes it.
//! <https://parquet.apache.org/docs/file-format/>

use std::fs::File;
use std::io::{Read, Write};
use std::panic;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::{CHECKPOINT, DATA, ENCODER, FeaturesFile, Rows, SPLIT, floats, tensor};

pub(super) const MAGIC: &[u8] = b"PAR1";

const SCHEMA: &str = "message features {
    required binary path (UTF8);
    optional binary label (UTF8);
    required group vector (LIST) { repeated group list { required float element; } }
}";

/// Rows of a group, which the writer keeps in memory, and of a piece of it.
const GROUP: usize = 4096;
const PIECE: usize = 128;

pub(super) fn write(rows: &Rows<'_>, raw: &mut impl Read, file: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let entries = rows.about.entries().map(|(name, value)| KeyValue::new(name.to_owned(), value));
    // Hardly two numbers are equal, and nobody looks for their least: dictionaries and statistics of them are waste.
    let element = ColumnPath::new(["vector", "list", "element"].map(str::to_owned).into());
    let properties = WriterProperties::builder()
        .set_created_by(concat!("simclr-train ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(entries.into()))
        .set_column_dictionary_enabled(element.clone(), false)
        .set_column_statistics_enabled(element, EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from("path"), false)
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let n = rows.pictures.len();
    for start in (0..n).step_by(GROUP) {
        let members = start..n.min(start + GROUP);
        let mut group = writer.next_row_group()?;
        let paths: Vec<ByteArray> =
            members.clone().map(|index| rows.pictures.place(index).into_bytes().into()).collect();
        column::<ByteArrayType, _>(&mut group, |column| column(&paths, None, None))?;
        let known: Vec<i16> = members.clone().map(|index| rows.label(index).is_some().into()).collect();
        let labels: Vec<ByteArray> =
            members.clone().filter_map(|index| rows.label(index)).map(ByteArray::from).collect();
        column::<ByteArrayType, _>(&mut group, |column| column(&labels, Some(&known), None))?;
        column::<FloatType, _>(&mut group, |column| {
            for start in members.clone().step_by(PIECE) {
                let mut bytes = vec![0; 4 * rows.width * PIECE.min(members.end - start)];
                raw.read_exact(&mut bytes)?;
                let numbers: Vec<f32> = floats(&bytes).collect();
                // Every number is there, and the first of a row begins a list.
                let begins: Vec<i16> = (0..numbers.len()).map(|i| (i % rows.width != 0).into()).collect();
                column(&numbers, Some(&vec![1; numbers.len()]), Some(&begins))?;
            }
            Ok(())
        })?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// Values, definition levels, repetition levels.
type Piece<'a, T> = dyn FnMut(&[T], Option<&[i16]>, Option<&[i16]>) -> anyhow::Result<()> + 'a;

/// Writes the next column of a group: `fill` is given what writes some of it.
fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    fill: impl FnOnce(&mut Piece<'_, T::T>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut column = group.next_column()?.context("the schema has no such column")?;
    let typed = column.typed::<T>();
    fill(&mut |values, definitions, repetitions| Ok(typed.write_batch(values, definitions, repetitions).map(drop)?))?;
    Ok(column.close()?)
}

/// Reads files that other programs have written, too, if they are not compressed.
pub(super) fn read(file: File) -> anyhow::Result<FeaturesFile> {
    // The crate's decoders index beyond the end of pages that are damaged. Nothing of ours is half changed when they panic, and
    // what the panic says is no help to anybody.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let decoded = panic::catch_unwind(|| decode(file));
    panic::set_hook(hook);
    decoded.unwrap_or_else(|_| bail!("a page of it cannot be decoded: the file is damaged"))
}

fn decode(file: File) -> anyhow::Result<FeaturesFile> {
    let reader = SerializedFileReader::new(file)?;
    let metadata = reader.metadata().file_metadata();
    let columns = metadata.schema_descr().columns();
    let position =
        |name: &str| columns.iter().position(|column| column.path().parts().first().is_some_and(|p| p == name));
    let vector = position("vector").context("there is no column `vector` in it")?;
    let (path, label) = (position("path"), position("label"));
    let (mut numbers, mut width, mut rows) = (Vec::new(), None, 0);
    let (mut paths, mut labels) = (path.map(|_| Vec::new()), label.map(|_| Vec::new()));
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        rows += read_vectors(group.as_ref(), vector, &mut numbers, &mut width)?;
        if let (Some(column), Some(paths)) = (path, &mut paths) {
            for path in read_strings(group.as_ref(), column)? {
                paths.push(path.context("a row has no path")?);
            }
        }
        if let (Some(column), Some(labels)) = (label, &mut labels) {
            labels.extend(read_strings(group.as_ref(), column)?);
        }
    }
    for found in [paths.as_ref().map(Vec::len), labels.as_ref().map(Vec::len)].into_iter().flatten() {
        ensure!(found == rows, "its columns have {found} and {rows} rows: the file is damaged");
    }
    let entries = metadata.key_value_metadata();
    let entry = |name: &str| entries?.iter().find(|entry| entry.key == name)?.value.clone();
    let vectors = tensor(numbers, rows, width.unwrap_or_default())?;
    let [encoder_sha256, checkpoint, data, split] = [ENCODER, CHECKPOINT, DATA, SPLIT].map(entry);
    Ok(FeaturesFile { vectors, paths, labels, encoder_sha256, checkpoint, data, split })
}

/// Appends the vectors of a group, which all have the same `width`, and returns how many there are.
fn read_vectors(
    group: &dyn RowGroupReader,
    column: usize,
    numbers: &mut Vec<f32>,
    width: &mut Option<usize>,
) -> anyhow::Result<usize> {
    let ColumnReader::FloatColumnReader(mut reader) = group.get_column_reader(column)? else {
        bail!("its column `vector` is not of 32-bit floats");
    };
    let most = group.metadata().column(column).column_descr().max_def_level();
    let repeated = group.metadata().column(column).column_descr().max_rep_level();
    ensure!(repeated == 1, "its column `vector` is not of lists");
    let mut rows = 0;
    loop {
        let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
        // The reader says how many it has decoded: what the file claims is not believed.
        let (records, ..) = reader.read_records(PIECE, Some(&mut definitions), Some(&mut repetitions), numbers)?;
        if records == 0 {
            ensure!(definitions.is_empty(), "its column `vector` ends within a row");
            return Ok(rows);
        }
        ensure!(definitions.iter().all(|&level| level == most), "a vector in it is empty or has missing numbers");
        let width = *width.get_or_insert(definitions.len() / records);
        let even = |(i, &level): (usize, &i16)| width > 0 && (level == 0) == (i % width == 0);
        ensure!(
            definitions.len() == records * width && repetitions.iter().enumerate().all(even),
            "its vectors differ in length"
        );
        rows += records;
    }
}

/// The texts of a column; none where there is none.
fn read_strings(group: &dyn RowGroupReader, column: usize) -> anyhow::Result<Vec<Option<String>>> {
    let name = group.metadata().column(column).column_descr().name().to_owned();
    let descr = group.metadata().column(column).column_descr();
    let (optional, nested) = (descr.max_def_level() > 0, descr.max_rep_level() > 0 || descr.max_def_level() > 1);
    let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(column)? else {
        bail!("its column `{name}` is no text");
    };
    ensure!(!nested, "its column `{name}` is no text");
    let mut texts = Vec::new();
    while let Some(records) = read_piece(&mut reader, optional)? {
        for bytes in records {
            let text = bytes.map(|bytes| String::from_utf8(bytes.data().to_vec())).transpose();
            texts.push(text.with_context(|| format!("its column `{name}` is no UTF-8"))?);
        }
    }
    Ok(texts)
}

/// Some values of a column, or none at its end.
fn read_piece(
    reader: &mut ColumnReaderImpl<ByteArrayType>,
    optional: bool,
) -> anyhow::Result<Option<Vec<Option<ByteArray>>>> {
    let (mut values, mut definitions) = (Vec::new(), Vec::new());
    let (records, ..) = reader.read_records(GROUP, Some(&mut definitions), None, &mut values)?;
    if records == 0 {
        return Ok(None);
    }
    if !optional {
        return Ok(Some(values.into_iter().map(Some).collect()));
    }
    let mut values = values.into_iter();
    Ok(Some(definitions.iter().map(|&level| if level > 0 { values.next() } else { None }).collect()))
}
