//! The machine that runs a pickle, as far as it describes dicts of tensors.
//!
//! Instructions and their codes are those of Python's `pickletools`, up to protocol 2, which `torch.save` uses. Names of
//! functions stand for what this module makes of them; nothing is imported and nothing called. Objects lie in one list and
//! refer to each other by their places in it: cycles and depth cost nothing, and no instruction makes more than one object.

use std::collections::HashMap;

use super::error::PickleError;
use super::object::{Function, Object, Unpickled, Value};
use super::view::{Storage, View};

/// Runs a pickle to its end.
///
/// # Errors
/// Where the instruction begins that is wrong, and why.
pub(super) fn run(bytes: &[u8]) -> Result<Unpickled<'_>, (usize, PickleError)> {
    let objects = Unpickled { objects: Vec::new(), top: Value::Other };
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), objects };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => return Ok(Unpickled { top, ..machine.objects }),
            Err(error) => return Err((at, error)),
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack; instructions without a mark of their own do not reach below the last.
    marks: Vec<usize>,
    /// Sparse: a pickle may number what it keeps as it likes.
    memo: HashMap<u32, Value<'a>>,
    objects: Unpickled<'a>,
}

/// More than any tensor has; without a limit one long tuple could be made the shape of many tensors.
const MAX_RANK: usize = 8;

impl<'a> Machine<'a> {
    /// One instruction; the value of the whole pickle if it was the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, PickleError> {
        match self.byte()? {
            // PROTO
            0x80 => match self.byte()? {
                2..=5 => {}
                found => return Err(PickleError::Protocol { found }),
            },
            // STOP
            b'.' => return self.pop().map(Some),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE
            b'N' => self.stack.push(Value::Other),
            // NEWTRUE, NEWFALSE
            0x88 | 0x89 => self.stack.push(Value::Bool),
            // BININT, BININT1, BININT2
            b'J' => self.integer(i32::from_le_bytes)?,
            b'K' => self.integer(u8::from_le_bytes)?,
            b'M' => self.integer(u16::from_le_bytes)?,
            // LONG1
            0x8a => {
                let bytes = usize::from(self.byte()?);
                let digits = self.take(bytes)?;
                if bytes > 8 {
                    return Err(PickleError::Integer { bytes });
                }
                let negative = digits.last().is_some_and(|&last| last >= 0x80);
                let mut all = if negative { [0xff; 8] } else { [0; 8] };
                all[..bytes].copy_from_slice(digits);
                self.stack.push(Value::Int(i64::from_le_bytes(all)));
            }
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            // BINUNICODE
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                let text = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
                self.stack.push(Value::Text(str::from_utf8(text).map_err(|_| PickleError::Text)?));
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Object::Tuple(Vec::new())),
            code @ 0x85..=0x87 => {
                let mut items = (0x85..=code).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.push(Object::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Object::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS; lists of checkpoints are passed over
            b']' => self.push(Object::List),
            b'a' => {
                self.pop()?;
                self.list()?;
            }
            b'e' => {
                self.since_mark()?;
                self.list()?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Object::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict("what SETITEM adds to")?.push((key, value));
            }
            b'u' => {
                let items = self.since_mark()?;
                let (pairs, rest) = items.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(PickleError::Count { place: "SETITEMS", found: items.len(), expected: "pairs" });
                }
                self.dict("what SETITEMS adds to")?.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let index = self.byte()?.into();
                self.keep(index)?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.keep(index)?;
            }
            b'h' => {
                let index = self.byte()?.into();
                self.recall(index)?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Function(Function::named(module, name)?));
            }
            // REDUCE
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            // BUILD: attributes of an OrderedDict, of which `_metadata` is one; none is needed
            b'b' => {
                let state = self.pop()?;
                if self.objects.dict(state).is_none() {
                    return Err(self.kind("the state of BUILD", state, "a dict"));
                }
                self.dict("what BUILD adds to")?;
            }
            // BINPERSID
            b'Q' => {
                let storage = self.pop()?;
                let storage = self.storage(storage)?;
                self.push(Object::Storage(storage));
            }
            code => return Err(PickleError::Instruction { code }),
        }
        Ok(None)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        self.take(N)?.try_into().map_err(|_| PickleError::Truncated)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let bytes = self.bytes[self.at..].get(..len).ok_or(PickleError::Truncated)?;
        self.at += len;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let len = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = self.take(len + 1)?;
        str::from_utf8(&line[..len]).map_err(|_| PickleError::Text)
    }

    fn integer<const N: usize, I: Into<i64>>(&mut self, value: impl Fn([u8; N]) -> I) -> Result<(), PickleError> {
        let bytes = self.array()?;
        self.stack.push(Value::Int(value(bytes).into()));
        Ok(())
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.objects.len()));
        self.objects.objects.push(object);
    }

    fn last(&self) -> Result<Value<'a>, PickleError> {
        let above = self.stack.get(self.marks.last().copied().unwrap_or(0)..).unwrap_or_default();
        above.last().copied().ok_or(PickleError::Stack)
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        let value = self.last()?;
        self.stack.pop();
        Ok(value)
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Mark)?;
        Ok(self.stack.split_off(mark))
    }

    fn keep(&mut self, index: u32) -> Result<(), PickleError> {
        let value = self.last()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), PickleError> {
        let value = self.memo.get(&index).ok_or(PickleError::Memo { index })?;
        self.stack.push(*value);
        Ok(())
    }

    fn kind(&self, place: &'static str, value: Value<'a>, expected: &'static str) -> PickleError {
        PickleError::Kind { place, found: self.objects.kind(value), expected }
    }

    /// Checks that a list is on top of the stack.
    fn list(&self) -> Result<(), PickleError> {
        let list = self.last()?;
        match self.objects.object(list) {
            Some(Object::List) => Ok(()),
            _ => Err(self.kind("what APPEND adds to", list, "a list")),
        }
    }

    /// The dict on top of the stack.
    fn dict(&mut self, place: &'static str) -> Result<&mut Vec<(Value<'a>, Value<'a>)>, PickleError> {
        let dict = self.last()?;
        let wrong = self.kind(place, dict, "a dict");
        match dict {
            Value::Object(object) => match &mut self.objects.objects[object] {
                Object::Dict(items) => Ok(items),
                _ => Err(wrong),
            },
            _ => Err(wrong),
        }
    }

    fn tuple(&self, place: &'static str, value: Value<'a>) -> Result<&[Value<'a>], PickleError> {
        match self.objects.object(value) {
            Some(Object::Tuple(items)) => Ok(items),
            _ => Err(self.kind(place, value, "a tuple")),
        }
    }

    fn size(&self, place: &'static str, value: Value<'a>) -> Result<usize, PickleError> {
        let Value::Int(found) = value else {
            return Err(self.kind(place, value, "an integer"));
        };
        usize::try_from(found).map_err(|_| PickleError::Negative { place, found })
    }

    fn sizes(&self, place: &'static str, value: Value<'a>) -> Result<Vec<usize>, PickleError> {
        let items = self.tuple(place, value)?;
        if items.len() > MAX_RANK {
            return Err(PickleError::Count { place, found: items.len(), expected: "at most 8" });
        }
        items.iter().map(|&item| self.size(place, item)).collect()
    }

    /// `("storage", torch.FloatStorage, "0", "cpu", 27)`: which entry of the archive, and what is in it.
    fn storage(&self, value: Value<'a>) -> Result<Storage<'a>, PickleError> {
        let place = "a persistent id";
        let items = self.tuple(place, value)?;
        let &[tag, class, key, _location, len] = items else {
            return Err(PickleError::Count { place, found: items.len(), expected: "5" });
        };
        if !matches!(tag, Value::Text("storage")) {
            return Err(self.kind("the tag of a persistent id", tag, "the text \"storage\""));
        }
        let Value::Function(Function::Storage(element)) = class else {
            return Err(self.kind("the class of a storage", class, "a storage class of torch"));
        };
        let Value::Text(key) = key else {
            return Err(self.kind("the key of a storage", key, "a text"));
        };
        if key.is_empty() || key.len() > 20 || !key.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(PickleError::Key { found: key.chars().take(60).collect() });
        }
        Ok(Storage { key, element, len: self.size("the length of a storage", len)? })
    }

    /// Puts on the stack what a function makes of its arguments.
    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<(), PickleError> {
        let items = self.tuple("the arguments of REDUCE", arguments)?;
        let wrong = |place, expected| PickleError::Count { place, found: items.len(), expected };
        match function {
            Value::Function(Function::OrderedDict) => {
                if !items.is_empty() {
                    return Err(wrong("the arguments of OrderedDict", "0"));
                }
                self.push(Object::Dict(Vec::new()));
            }
            Value::Function(Function::RebuildTensor) => {
                // Whether it needs a gradient, its hooks and, if there is any, metadata follow.
                let &[storage, offset, sizes, strides, _, _, ref metadata @ ..] = items else {
                    return Err(wrong("the arguments of _rebuild_tensor_v2", "6 or 7"));
                };
                if metadata.len() > 1 {
                    return Err(wrong("the arguments of _rebuild_tensor_v2", "6 or 7"));
                }
                let Some(&Object::Storage(storage)) = self.objects.object(storage) else {
                    return Err(self.kind("what a tensor is a view of", storage, "a storage"));
                };
                let offset = self.size("the offset of a tensor", offset)?;
                let (sizes, strides) =
                    (self.sizes("the shape of a tensor", sizes)?, self.sizes("the strides of a tensor", strides)?);
                if sizes.len() != strides.len() {
                    let (place, found) = ("the strides of a tensor", strides.len());
                    return Err(PickleError::Count { place, found, expected: "as many as the shape" });
                }
                self.push(Object::Tensor(View::new(storage, offset, sizes, strides)?));
            }
            Value::Function(Function::RebuildParameter) => {
                let &[tensor, _, _] = items else {
                    return Err(wrong("the arguments of _rebuild_parameter", "3"));
                };
                if self.objects.view(tensor).is_none() {
                    return Err(self.kind("the data of a parameter", tensor, "a tensor"));
                }
                self.stack.push(tensor);
            }
            _ => return Err(self.kind("what REDUCE calls", function, "a function that makes dicts or tensors")),
        }
        Ok(())
    }
}
