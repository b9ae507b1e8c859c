//! Pickles that ask for more than dicts of tensors, in archives that are right: nothing is called, nothing grows.

use proptest::prelude::*;

use super::*;

/// What the machine says of instructions between PROTO and STOP.
fn refused(instructions: &[u8]) -> String {
    let pickle = [b"\x80\x02", instructions, b"."].concat();
    let error = read(&file(&pickle, &[])).unwrap_err();
    let PthError::Pickle { entry, source, .. } = error else { panic!("{error}") };
    assert_eq!(entry, "archive/data.pkl");
    source.to_string()
}

#[test]
fn code_is_not_run() {
    let expected = "\"os\" \"system\" is no part of a state dict; it was not called";
    assert_eq!(refused(&[b"cos\nsystem\n(".to_vec(), text("touch /tmp/x"), b"tR".to_vec()].concat()), expected);
    for (module, name) in [
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "OrderedDict.__class__"),
        ("__builtin__", "getattr"),
    ] {
        let message = refused(format!("c{module}\n{name}\n)R").as_bytes());
        assert_eq!(message, format!("{module:?} {name:?} is no part of a state dict; it was not called"));
    }
    // INST, OBJ, NEWOBJ, STACK_GLOBAL, EXT1: the other ways to name and to call.
    for (instruction, code) in [
        (b"(ios\nsystem\n".as_slice(), "0x69"),
        (b"(o", "0x6f"),
        (b"N)\x81", "0x81"),
        (b"NN\x93", "0x93"),
        (b"\x82\x01", "0x82"),
    ] {
        let message = refused(instruction);
        assert!(message.contains(&format!("instruction {code} is none")), "{message}");
    }
    let message = refused(format!("c{}\nx\n", "a".repeat(1000)).as_bytes());
    assert!(message.len() < 200, "{message}");
    let message = refused(b"c\x1b[31m\nx\n");
    assert!(!message.contains('\x1b'), "{message}");
}

#[test]
fn only_what_makes_dicts_and_tensors_is_a_function() {
    assert_eq!(
        refused(b"ctorch\nFloatStorage\n)R"),
        "what REDUCE calls is a function, expected a function that makes dicts or tensors"
    );
    assert!(refused(b"})R").starts_with("what REDUCE calls is a dict"));
    assert_eq!(refused(b"ccollections\nOrderedDict\nNR"), "the arguments of REDUCE is a value, expected a tuple");
    let message = refused(b"ccollections\nOrderedDict\nN\x85R");
    assert_eq!(message, "the arguments of OrderedDict has 1 items, expected 0");
    assert_eq!(refused(b"}Nb"), "the state of BUILD is a value, expected a dict");
    assert_eq!(refused(b"N}b"), "what BUILD adds to is a value, expected a dict");
    let message = refused(b"ctorch._utils\n_rebuild_parameter\n}NN\x87R");
    assert_eq!(message, "the data of a parameter is a dict, expected a tensor");
    assert!(refused(b"ctorch._utils\n_rebuild_parameter\n)R").contains("has 0 items, expected 3"));
}

#[test]
fn instructions_without_what_they_need() {
    for instructions in [b"".as_slice(), b"N(", b"q\0", b"Ns", b"R", b"Q", b"}b", b"a", b"\x87", b"N(q\0", b"N(\x85"] {
        assert_eq!(refused(instructions), "the stack is empty", "{instructions:?}");
    }
    for instructions in [b"t".as_slice(), b"}u", b"]e", b"(t)t"] {
        assert_eq!(refused(instructions), "there is no mark on the stack", "{instructions:?}");
    }
    assert_eq!(refused(b"h\x07"), "nothing is kept under 7");
    assert_eq!(refused(b"Nq\x07j\x07\0\0\x01"), "nothing is kept under 16777223");
    assert_eq!(refused(b"}(Nu"), "SETITEMS has 1 items, expected pairs");
    assert_eq!(refused(b"NNNs"), "what SETITEM adds to is a value, expected a dict");
    assert_eq!(refused(b"N(NNu"), "what SETITEMS adds to is a value, expected a dict");
    assert_eq!(refused(b"NNa"), "what APPEND adds to is a value, expected a list");
    assert_eq!(refused(b"\x8a\x09123456789"), "an integer of 9 bytes, expected at most 8");
    assert_eq!(refused(b"X\x01\0\0\0\xff"), "a text is not UTF-8");
    assert_eq!(refused(b"\x80\x01"), "pickle protocol 1, expected 2 to 5");
    for end in
        [b"X\xff\xff\xff\xff".as_slice(), b"cos", b"cos\nsystem", b"K", b"J\0\0", b"\x8a", b"\x8a\xff", b"G\0", b"N"]
    {
        let bytes = file(&[b"\x80\x02", end].concat(), &[]);
        let message = read(&bytes).unwrap_err().to_string();
        assert!(message.ends_with(": the pickle ends too early"), "{message}");
        assert!(message.starts_with("entry archive/data.pkl, byte "), "{message}");
    }
}

#[test]
fn storages_that_are_none() {
    assert_eq!(refused(b"NQ"), "a persistent id is a value, expected a tuple");
    assert_eq!(refused(b"N\x85Q"), "a persistent id has 1 items, expected 5");
    let id =
        |tag: &[u8], class: &[u8], key: &[u8], len: &[u8]| refused(&[b"(", tag, class, key, b"N", len, b"tQ"].concat());
    let (tag, class, key, len) = (text("storage"), b"ctorch\nFloatStorage\n", text("0"), int(1));
    assert!(id(b"N", class, &key, &len).starts_with("the tag of a persistent id is a value"));
    assert!(id(&text("module"), class, &key, &len).starts_with("the tag of a persistent id is a text"));
    assert!(id(&tag, b"N", &key, &len).starts_with("the class of a storage is a value"));
    assert!(id(&tag, b"ctorch\nQInt8Storage\n", &key, &len).contains("\"torch\" \"QInt8Storage\" is no part"));
    assert_eq!(id(&tag, class, b"K\0", &len), "the key of a storage is an integer, expected a text");
    for wrong in ["", "../../etc/passwd", "0\u{1b}[31m", "123456789012345678901"] {
        assert_eq!(
            id(&tag, class, &text(wrong), &len),
            format!("the key of a storage is {wrong:?}, expected a number")
        );
    }
    assert_eq!(id(&tag, class, &key, b"N"), "the length of a storage is a value, expected an integer");
    assert_eq!(id(&tag, class, &key, &int(-1)), "the length of a storage is -1, expected at least 0");
}

#[test]
fn tensors_that_reach_out_of_their_storage() {
    let view = |offset, sizes: &[i64], strides: &[i64]| {
        refused(&tensor(&storage("FloatStorage", "0", 10), offset, sizes, strides))
    };
    for (offset, sizes, strides, needed) in [
        (0, &[11][..], &[1][..], 11_u64),
        (1, &[10], &[1], 11),
        (10, &[], &[], 11),
        (0, &[2, 5], &[6, 1], 11),
        (0, &[2], &[10], 11),
        (i64::MAX, &[1], &[1], 1 << 63),
        (0, &[1 << 40], &[1], 1 << 40),
    ] {
        let expected = format!(
            "a tensor of shape {sizes:?} with strides {strides:?} from element {offset} on needs {needed} elements of \
             storage \"0\", which has 10"
        );
        assert_eq!(view(offset, sizes, strides), expected);
    }
    for (sizes, strides) in [
        (&[1 << 40, 1 << 40][..], &[0, 0][..]),
        (&[1 << 62], &[0]),
        (&[3, 3], &[i64::MAX, i64::MAX]),
        (&[i64::MAX], &[i64::MAX]),
        (&[1 << 40, 1 << 40, 0], &[0, 0, 0]),
    ] {
        let expected = format!("a tensor of shape {sizes:?} with strides {strides:?} has no end that can be counted");
        assert_eq!(view(0, sizes, strides), expected);
    }
    assert_eq!(view(-1, &[1], &[1]), "the offset of a tensor is -1, expected at least 0");
    assert_eq!(view(0, &[-1], &[1]), "the shape of a tensor is -1, expected at least 0");
    assert_eq!(view(0, &[1], &[-1]), "the strides of a tensor is -1, expected at least 0");
    assert_eq!(view(0, &[1, 1], &[1]), "the strides of a tensor has 1 items, expected as many as the shape");
    assert_eq!(view(0, &[1; 9], &[1; 9]), "the shape of a tensor has 9 items, expected at most 8");
    assert_eq!(refused(&tensor(b"N", 0, &[], &[])), "what a tensor is a view of is a value, expected a storage");
    let message = refused(b"ctorch._utils\n_rebuild_tensor_v2\n)R");
    assert_eq!(message, "the arguments of _rebuild_tensor_v2 has 0 items, expected 6 or 7");
    // Strides mean nothing where there is one element, or none.
    let storage = storage("FloatStorage", "0", 1);
    let odd = [
        ("a", tensor(&storage, 0, &[1, 1], &[i64::MAX, 9])),
        ("b", tensor(&storage, 9, &[0, 1 << 40], &[i64::MAX, 1])),
    ];
    let tensors = read(&file(&dict(&odd), &[&floats(&[7.])])).unwrap();
    assert_eq!((tensors["a"].dims(), tensors["b"].dims()), ([1, 1].as_slice(), [0, 1 << 40].as_slice()));
}

#[test]
fn objects_that_are_no_state_dict() {
    let message = |pickle: &[u8]| read(&file(pickle, &[&floats(&[7.])])).unwrap_err().to_string();
    let one = tensor(&storage("FloatStorage", "0", 1), 0, &[], &[]);
    for (value, kind) in [
        (b"N".as_slice(), "a value"),
        (b"]", "a list"),
        (b")", "a tuple"),
        (b"K\x01", "an integer"),
        (b"\x88", "a bool"),
        (b"X\0\0\0\0", "a text"),
        (b"ctorch\nFloatStorage\n", "a function"),
        (&one, "a tensor"),
    ] {
        let pickle = [b"\x80\x02", value, b"."].concat();
        assert_eq!(message(&pickle), format!("the file holds {kind}, expected a state dict: names and their tensors"));
    }
    assert_eq!(message(&dict(&[("x", b"N".to_vec())])), "entry x of the state dict is a value, expected a tensor");
    assert_eq!(message(&dict(&[("epoch", int(3))])), "entry epoch of the state dict is an integer, expected a tensor");
    assert_eq!(message(b"\x80\x02}K\x01K\x02s."), "a name in the state dict is an integer, expected a text");
    assert_eq!(message(&dict(&[("x", one.clone()), ("y", one.clone()), ("x", one)])), "the state dict has x twice");
}

/// Each of these is a pickle of the largest size that is read; a limit of memory or time would be hit long before the end
/// if one instruction could make much of another.
#[test]
fn bombs_stay_small() {
    let fill = |unit: &[u8]| unit.repeat((1 << 20) / unit.len() - 8);
    let long = [b"\x80\x02(".to_vec(), b"K\x01".repeat(100_000), b"tq\0".to_vec()].concat();
    for pickle in [
        // Depth: marks, lists in lists, tuples in tuples, a dict in itself.
        [b"\x80\x02".to_vec(), fill(b"(")].concat(),
        [b"\x80\x02".to_vec(), fill(b"]"), fill(b"a")[..100].to_vec(), b".".to_vec()].concat(),
        [b"\x80\x02N".to_vec(), fill(b"\x85"), b".".to_vec()].concat(),
        b"\x80\x02}q\0X\x01\0\0\0xh\0s.".to_vec(),
        // Number: dicts, things kept at far places, doubling by recall.
        [b"\x80\x02".to_vec(), fill(b"}"), b".".to_vec()].concat(),
        [b"\x80\x02Nr\xff\xff\xff\xff".to_vec(), b".".to_vec()].concat(),
        [b"\x80\x02)q\0".to_vec(), fill(b"h\0h\0\x86q\0"), b".".to_vec()].concat(),
        // One long tuple as the shape of many tensors.
        [
            long,
            storage("FloatStorage", "0", 1),
            b"q\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02(h\x01K\0h\0h\0NNtq\x03".to_vec(),
            b"h\x02h\x03R".repeat(1_000),
            b".".to_vec(),
        ]
        .concat(),
    ] {
        // What there is besides dicts is refused; of what there is not, nothing can be read.
        assert!(read(&file(&pickle, &[])).map_or(true, |tensors| tensors.is_empty()));
    }
}

/// Pickles of instructions that exist, in any order.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop::sample::select(b"(Nt)]}asue.RbQ\x85\x86\x87\x88\x89".to_vec()).prop_map(|code| vec![code]);
    let function = prop::sample::select(vec![
        "collections\nOrderedDict",
        "torch._utils\n_rebuild_tensor_v2",
        "torch\nByteStorage",
    ]);
    prop_oneof![
        4 => plain,
        1 => any::<i64>().prop_map(int),
        2 => (-1..5_i64).prop_map(int),
        1 => prop::sample::select(vec!["storage", "0", "x", "state_dict"]).prop_map(text),
        1 => function.prop_map(|name| format!("c{name}\n").into_bytes()),
        1 => (0..3_u8).prop_map(|index| vec![b'q', index]),
        1 => (0..3_u8).prop_map(|index| vec![b'h', index]),
        1 => Just(storage("ByteStorage", "0", 4)),
        1 => (any::<i64>(), prop::collection::vec(-1..4_i64, 0..4))
            .prop_map(|(offset, sizes)| tensor(&storage("ByteStorage", "0", 4), offset % 5, &sizes, &sizes)),
        1 => any::<u8>().prop_map(|code| vec![code]),
    ]
}

proptest! {
    #[test]
    fn whatever_the_instructions_nothing_panics(instructions in prop::collection::vec(instruction(), 0..40)) {
        let _ = read(&file(&[b"\x80\x02".to_vec(), instructions.concat(), b".".to_vec()].concat(), &[&[1, 2, 3, 4]]));
        let items: Vec<(&str, Vec<u8>)> = instructions.into_iter().map(|value| ("x", value)).collect();
        let _ = read(&file(&dict(&items), &[&[1, 2, 3, 4]]));
    }

    #[test]
    fn views_are_gathered_as_their_strides_say(
        sizes in prop::collection::vec(0..4_usize, 0..4),
        strides in prop::collection::vec(0..6_usize, 4),
        offset in 0..4_usize,
    ) {
        let strides = &strides[..sizes.len()];
        let numbers: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let wide = |values: &[usize]| values.iter().map(|&value| value as i64).collect::<Vec<_>>();
        let view = tensor(&storage("FloatStorage", "0", 48), offset as i64, &wide(&sizes), &wide(strides));
        let tensors = read(&file(&dict(&[("x", view)]), &[&floats(&numbers)])).unwrap();
        // The places of the elements by plain counting.
        let mut places = vec![offset];
        for (&size, &stride) in sizes.iter().zip(strides) {
            places = places.iter().flat_map(|place| (0..size).map(move |i| place + i * stride)).collect();
        }
        let expected: Vec<f64> = places.into_iter().map(|place| place as f64).collect();
        prop_assert_eq!(&contents(&tensors)[0].3, &expected);
        prop_assert_eq!(tensors["x"].dims(), sizes);
    }
}
