//! What a pickle describes: values, and the objects that they refer to.

use super::error::PickleError;
use super::view::{Element, Storage, View};

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// `None`, or a number that is no integer: things of checkpoints that no tensor needs.
    Other,
    Bool,
    Int(i64),
    Text(&'a str),
    Function(Function),
    /// A place in the list of objects.
    Object(usize),
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Function {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    Storage(Element),
}

impl Function {
    /// What a name in a Python module stands for.
    ///
    /// # Errors
    /// [`PickleError::Global`] for all but the few that state dicts are made of.
    pub(super) fn named(module: &str, name: &str) -> Result<Self, PickleError> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", class) => Element::of_class(class).map(Self::Storage),
            _ => None,
        };
        let clip = |text: &str| text.chars().take(60).collect();
        known.ok_or_else(|| PickleError::Global { module: clip(module), name: clip(name) })
    }
}

/// What lies in the list of objects.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List,
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(View<'a>),
}

/// What a pickle describes.
#[derive(Debug)]
pub(super) struct Unpickled<'a> {
    pub(super) objects: Vec<Object<'a>>,
    pub(super) top: Value<'a>,
}

impl<'a> Unpickled<'a> {
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        if let Value::Object(place) = value { self.objects.get(place) } else { None }
    }

    /// The items of a dict, in their order.
    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Object::Dict(items) = self.object(value)? { Some(items) } else { None }
    }

    pub(super) fn view(&self, value: Value<'a>) -> Option<&View<'a>> {
        if let Object::Tensor(view) = self.object(value)? { Some(view) } else { None }
    }

    /// What a value is called in messages.
    pub(super) fn kind(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::Other => "a value",
            Value::Bool => "a bool",
            Value::Int(_) => "an integer",
            Value::Text(_) => "a text",
            Value::Function(_) => "a function",
            Value::Object(_) => match self.object(value) {
                Some(Object::Tuple(_)) => "a tuple",
                Some(Object::List) => "a list",
                Some(Object::Dict(_)) => "a dict",
                Some(Object::Storage(_)) => "a storage",
                Some(Object::Tensor(_)) => "a tensor",
                None => "a value",
            },
        }
    }
}
