//! What can be wrong with a `.pth` file.

use zip::result::ZipError;

/// Why a `.pth` file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// A bare pickle.
    #[error(
        "a pickle that is not in a zip archive, the form that PyTorch wrote before 1.6: \
         load it with a current PyTorch and save it again with torch.save"
    )]
    Legacy,
    /// Not a zip archive, or one that is cut short or damaged.
    #[error("not a whole zip archive: {source}")]
    Zip {
        /// What is wrong with it.
        source: ZipError,
    },
    /// One entry of the archive is damaged or cannot be written.
    #[error("entry {entry}: {source}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong with it.
        source: ZipError,
    },
    /// Several entries have one name.
    #[error("several entries of the archive have the same name")]
    DuplicateEntries,
    /// Entries share bytes, or reach into the archive's directory.
    #[error("entries of the archive overlap")]
    OverlappingEntries,
    /// Not one pickle.
    #[error("the archive has {found} entries FOLDER/data.pkl, expected 1, the object that torch.save wrote")]
    Pickles {
        /// How many.
        found: usize,
    },
    /// An entry that is needed is not there.
    #[error("entry {entry} is missing")]
    MissingEntry {
        /// Its name.
        entry: String,
    },
    /// A compressed entry.
    #[error("entry {entry} is compressed ({method}), expected stored as torch.save does")]
    Compressed {
        /// Its name.
        entry: String,
        /// How.
        method: String,
    },
    /// An encrypted entry.
    #[error("entry {entry} is encrypted")]
    Encrypted {
        /// Its name.
        entry: String,
    },
    /// An entry whose content is not in the file.
    #[error("entry {entry}: {size} bytes from byte {start} on, in a file of {file} bytes")]
    OutOfFile {
        /// Its name.
        entry: String,
        /// Where it begins.
        start: u64,
        /// How long it should be.
        size: u64,
        /// Bytes of the file.
        file: usize,
    },
    /// A stored entry with two sizes.
    #[error("entry {entry} is stored in {stored} bytes, but its size is given as {size}")]
    StoredSize {
        /// Its name.
        entry: String,
        /// Bytes in the archive.
        stored: u64,
        /// Bytes of the content.
        size: u64,
    },
    /// The content of an entry is not what was written.
    #[error("entry {entry} is damaged: its CRC-32 is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Its name.
        entry: String,
        /// Of the bytes that are there.
        found: u32,
        /// What the archive says.
        expected: u32,
    },
    /// Numbers of another machine.
    #[error("the byte order of the numbers is {found}, expected little")]
    ByteOrder {
        /// What the entry says, as far as it is short.
        found: String,
    },
    /// A pickle that describes more than tensors.
    #[error("entry {entry} has {found} bytes, expected at most {limit}: a state dict takes far less")]
    PickleSize {
        /// Its name.
        entry: String,
        /// Its size.
        found: usize,
        /// The most that is read.
        limit: usize,
    },
    /// An instruction of the pickle is wrong.
    #[error("entry {entry}, byte {at}: {source}")]
    Pickle {
        /// Its name.
        entry: String,
        /// Where the instruction begins.
        at: usize,
        /// What is wrong with it.
        source: Box<PickleError>,
    },
    /// The object is no dict.
    #[error("the file holds {found}, expected a state dict: names and their tensors")]
    NotStateDict {
        /// What it is.
        found: &'static str,
    },
    /// Something that is no tensor.
    #[error("entry {name} of the state dict is {found}, expected a tensor")]
    NotTensor {
        /// Its name.
        name: String,
        /// What it is.
        found: &'static str,
    },
    /// A key that is no text.
    #[error("a name in the state dict is {found}, expected a text")]
    Name {
        /// What it is.
        found: &'static str,
    },
    /// A name that is there twice.
    #[error("the state dict has {name} twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// Far more numbers than the file has bytes for.
    #[error("the tensors up to {name} take {total} bytes, expected at most {limit}: 8 times the {file} of the file")]
    Expansion {
        /// The tensor at which the limit was passed.
        name: String,
        /// Bytes so far.
        total: usize,
        /// The most that is read.
        limit: usize,
        /// Bytes of the file.
        file: usize,
    },
    /// A storage of another size than the pickle says.
    #[error("entry {entry} has {found} bytes, expected {elements} elements of {width} bytes")]
    StorageSize {
        /// Its name.
        entry: String,
        /// Its size.
        found: usize,
        /// Elements that it should have.
        elements: usize,
        /// Bytes of each.
        width: usize,
    },
    /// A tensor that cannot be made, or not be written.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// Its name.
        name: String,
        /// candle's error.
        source: candle_core::Error,
    },
    /// A tensor of a type that is not written.
    #[error("tensor {name} has type {found}, expected f32, f64 or i64")]
    TensorType {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
    },
}

/// Why an instruction of a pickle is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The pickle ends within an instruction, or without the one that ends it.
    #[error("the pickle ends too early")]
    Truncated,
    /// A protocol that is not known.
    #[error("pickle protocol {found}, expected 2 to 5")]
    Protocol {
        /// Its number.
        found: u8,
    },
    /// An instruction that no state dict needs.
    #[error("instruction {code:#04x} is none that a state dict needs; it was not executed")]
    Instruction {
        /// Its code.
        code: u8,
    },
    /// A function or class that no state dict needs.
    #[error("{module:?} {name:?} is no part of a state dict; it was not called")]
    Global {
        /// Its Python module, cut after some letters.
        module: String,
        /// Its name there, cut after some letters.
        name: String,
    },
    /// Text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// An instruction that takes more values than there are.
    #[error("the stack is empty")]
    Stack,
    /// An instruction that takes values from the last mark on, without a mark.
    #[error("there is no mark on the stack")]
    Mark,
    /// A value that was never kept.
    #[error("nothing is kept under {index}")]
    Memo {
        /// Its place.
        index: u32,
    },
    /// An integer that does not fit 64 bits.
    #[error("an integer of {bytes} bytes, expected at most 8")]
    Integer {
        /// Its size.
        bytes: usize,
    },
    /// A value of another kind than the instruction or function takes.
    #[error("{place} is {found}, expected {expected}")]
    Kind {
        /// What takes it.
        place: &'static str,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Another number of values than expected.
    #[error("{place} has {found} items, expected {expected}")]
    Count {
        /// What has them.
        place: &'static str,
        /// How many.
        found: usize,
        /// How many there should be.
        expected: &'static str,
    },
    /// A storage whose name is none of an entry of the archive.
    #[error("the key of a storage is {found:?}, expected a number")]
    Key {
        /// It, cut after some letters.
        found: String,
    },
    /// A size, stride, offset or length below zero.
    #[error("{place} is {found}, expected at least 0")]
    Negative {
        /// Which.
        place: &'static str,
        /// Its value.
        found: i64,
    },
    /// More elements than a number can count.
    #[error("a tensor of shape {sizes:?} with strides {strides:?} has no end that can be counted")]
    Overflow {
        /// Its shape.
        sizes: Vec<usize>,
        /// Elements between neighbours along each dimension.
        strides: Vec<usize>,
    },
    /// A tensor that reaches out of its storage.
    #[error(
        "a tensor of shape {sizes:?} with strides {strides:?} from element {offset} on needs {needed} elements of storage \
         {key:?}, which has {len}"
    )]
    OutOfStorage {
        /// Its shape.
        sizes: Vec<usize>,
        /// Elements between neighbours along each dimension.
        strides: Vec<usize>,
        /// Its first element.
        offset: usize,
        /// Elements that the storage must have.
        needed: usize,
        /// The storage.
        key: String,
        /// Elements that it has.
        len: usize,
    },
}
