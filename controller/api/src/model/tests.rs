//! Headers that lie, layouts in every order, and the `safetensors` crate as a second opinion.

use std::collections::HashMap;

use proptest::{prelude::*, sample::Index};
use safetensors::{SafeTensors, tensor::TensorView};

use super::*;

fn parse(json: &str) -> Result<Header, HeaderError> {
    Header::parse(json.as_bytes())
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn header(entries: &[String]) -> Header {
    parse(&format!("{{{}}}", entries.join(","))).unwrap()
}

fn layout(entries: &[String]) -> ModelLayout {
    ModelLayout::from_header(&header(entries)).unwrap()
}

fn two() -> ModelLayout {
    layout(&[
        entry("w", "F32", "[2,3]", 0, 24),
        entry("b", "F32", "[3]", 24, 36),
    ])
}

// === headers ===

#[test]
fn a_good_header_is_read() {
    let json = format!(
        r#"{{"__metadata__":{{"round":"3","num_examples":"12.5"}},{},{}}}   "#,
        entry("b", "F32", "[3]", 24, 36),
        entry("w", "F32", "[2,3]", 0, 24)
    );
    let header = parse(&json).unwrap();
    assert_eq!(header.data_bytes(), 36);
    assert_eq!(
        header
            .tensors()
            .iter()
            .map(|t| t.name.as_str())
            .collect::<Vec<_>>(),
        ["w", "b"]
    );
    assert_eq!(header.round(), Ok(Some(3)));
    assert_eq!(header.num_examples(), Ok(Some(12.5)));
    assert_eq!(ModelLayout::from_header(&header).unwrap(), two());
}

#[test]
fn lies_are_named() {
    let max = u64::MAX;
    let cases = [
        (
            entry("w", "F32", "[2,3]", 0, 20),
            "takes 24 bytes, but its data_offsets [0, 20] span 20",
        ),
        (entry("w", "F32", "[2,3]", 24, 0), "span less than nothing"),
        (
            entry("w", "F32", "[4294967296,4294967296]", 0, 4),
            "impossible shape",
        ),
        (
            entry("w", "F32", &format!("[{max}]"), 0, 4),
            "impossible shape",
        ),
        (
            entry("w", "F32", &format!("[{}]", "1,".repeat(64) + "1"), 0, 4),
            "65 dimensions",
        ),
        (entry("w", "F32", "[-1]", 0, 4), "malformed"),
        (entry("w", "F32", "[1.5]", 0, 4), "malformed"),
        (
            entry("w", "F32", "[18446744073709551616]", 0, 4),
            "malformed",
        ),
        (entry("w", "F33", "[1]", 0, 4), "unknown dtype \"F33\""),
        (entry("w", "F4", "[1]", 0, 1), "no whole number of bytes"),
        (entry("w", "F32", "[1]", 4, 8), "begins at data offset 4"),
        (
            format!(
                "{},{}",
                entry("a", "F32", "[1]", 0, 4),
                entry("b", "F32", "[1]", 8, 12)
            ),
            "holes",
        ),
        (
            format!(
                "{},{}",
                entry("a", "F32", "[2]", 0, 8),
                entry("b", "F32", "[1]", 4, 8)
            ),
            "overlaps",
        ),
        (
            format!(
                "{},{}",
                entry("a", "F32", "[1]", 0, 4),
                entry("a", "F32", "[1]", 4, 8)
            ),
            "\"a\" comes twice",
        ),
        (
            r#""w":{"dtype":"F32","shape":[1]}"#.into(),
            "missing field `data_offsets`",
        ),
        (
            r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}"#.into(),
            "unknown field `x`",
        ),
        (
            r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#.into(),
            "malformed",
        ),
        (r#""w":7"#.into(), "malformed"),
        (r#""__metadata__":{"a":1}"#.into(), "malformed"),
        (
            r#""__metadata__":{"a":"1","a":"2"}"#.into(),
            "\"a\" comes twice",
        ),
        (
            r#""__metadata__":{},"__metadata__":{}"#.into(),
            "comes twice",
        ),
    ];
    for (entries, expected) in cases {
        let error = parse(&format!("{{{entries}}}")).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "{entries}\n gave {error}\n not  {expected}"
        );
    }
    for json in ["", "[]", " {}", "{", "nonsense", "{}{}", "\u{feff}{}"] {
        assert!(
            matches!(parse(json), Err(HeaderError::Malformed(_))),
            "{json:?} was taken"
        );
    }
}

#[test]
fn lying_names_do_not_fill_the_log() {
    let error = parse(&format!(
        "{{{}}}",
        entry(&"x".repeat(1 << 20), "F32", "[1]", 0, 5)
    ))
    .unwrap_err();
    assert!(error.to_string().len() < 500);
}

#[test]
fn lengths_are_bounded() {
    assert_eq!(
        header_length(100_u64.to_le_bytes(), HEADER_BYTES_MAX),
        Ok(100)
    );
    for length in [0, 1, 101, HEADER_BYTES_MAX + 1, u64::MAX] {
        let error = header_length(length.to_le_bytes(), 100).unwrap_err();
        assert_eq!(error, HeaderError::HeaderLength { length, max: 100 });
    }
    // No caller can lift the bound of the format.
    assert!(header_length((HEADER_BYTES_MAX + 1).to_le_bytes(), u64::MAX).is_err());
}

#[test]
fn files_must_be_as_long_as_they_say() {
    let mut file = two().header_bytes(&[]);
    file.extend([0; 36]);
    assert!(Header::split(&file).is_ok());
    let shorter = Header::split(&file[..file.len() - 1]);
    assert_eq!(
        shorter,
        Err(HeaderError::DataLength {
            described: 36,
            actual: 35
        })
    );
    file.push(0);
    assert_eq!(
        Header::split(&file),
        Err(HeaderError::DataLength {
            described: 36,
            actual: 37
        })
    );
    for end in [0, 7, 8, 100] {
        assert!(
            matches!(
                Header::split(&file[..end]),
                Err(HeaderError::Truncated { .. })
            ),
            "{end}"
        );
    }
}

#[test]
fn metadata_must_be_numbers() {
    let header = |key: &str, value: &str| {
        parse(&format!(r#"{{"__metadata__":{{"{key}":"{value}"}}}}"#)).unwrap()
    };
    for bad in ["", "-1", "1.5", "x", "18446744073709551616"] {
        assert!(header("round", bad).round().is_err(), "{bad:?} was taken");
    }
    for bad in ["", "0", "-1", "nan", "inf", "1e999", "x"] {
        assert!(
            header("num_examples", bad).num_examples().is_err(),
            "{bad:?} was taken"
        );
    }
    assert_eq!(parse("{}").unwrap().round(), Ok(None));
}

// === layouts ===

#[test]
fn models_are_f32_and_not_empty() {
    let half = header(&[entry("w", "F16", "[2]", 0, 4)]);
    let error = ModelLayout::from_header(&half).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor \"w\" is F16; models must be F32 in this version"
    );
    assert_eq!(
        ModelLayout::from_header(&header(&[])),
        Err(HeaderError::Empty)
    );
    assert_eq!(
        ModelLayout::from_header(&header(&[entry("w", "F32", "[0]", 0, 0)])),
        Err(HeaderError::Empty)
    );
}

#[test]
fn differences_are_named() {
    let error = |entries: &[String]| {
        two()
            .match_update(&header(entries))
            .unwrap_err()
            .to_string()
    };
    let (w, b) = (
        entry("w", "F32", "[2,3]", 0, 24),
        entry("b", "F32", "[3]", 24, 36),
    );
    assert_eq!(error(std::slice::from_ref(&w)), "tensor \"b\" is missing");
    assert_eq!(error(&[]), "tensor \"w\" is missing, and 1 more");
    assert_eq!(
        error(&[entry("w", "F32", "[3,2]", 0, 24), b.clone()]),
        "tensor \"w\" has the shape [3, 2]; the job's model has [2, 3]"
    );
    assert_eq!(
        error(&[entry("w", "I32", "[2,3]", 0, 24), b.clone()]),
        "tensor \"w\" is I32; the job's model has F32"
    );
    assert_eq!(
        error(&[w, b, entry("bb", "F32", "[1]", 36, 40)]),
        "tensor \"bb\" is not in the job's model; did you mean \"b\"?"
    );
}

#[test]
fn coordinates_are_named() {
    let names: Vec<_> = (0..10).map(|i| two().coordinate(i)).collect();
    assert_eq!(names[0].as_deref(), Some("w[0, 0]"));
    assert_eq!(names[5].as_deref(), Some("w[1, 2]"));
    assert_eq!(names[6].as_deref(), Some("b[0]"));
    assert_eq!(names[9], None);
    assert_eq!(two().coordinate(u64::MAX), None);
}

#[test]
fn an_update_in_the_same_order_is_one_segment() {
    let same = [
        entry("w", "F32", "[2,3]", 0, 24),
        entry("b", "F32", "[3]", 24, 36),
    ];
    let whole = Segment {
        file_offset: 0,
        canonical_offset: 0,
        bytes: 36,
    };
    assert_eq!(two().match_update(&header(&same)), Ok(vec![whole]));
}

#[derive(Debug, Clone)]
struct Model {
    /// Names and shapes in canonical order.
    tensors: Vec<(String, Vec<u64>)>,
}

impl Model {
    /// A header of the tensors in the order of `order`.
    fn header(&self, order: &[usize]) -> Header {
        let mut begin = 0;
        let entries: Vec<_> = order
            .iter()
            .map(|&i| {
                let (name, shape) = &self.tensors[i];
                let end = begin + shape.iter().product::<u64>() * 4;
                let entry = entry(name, "F32", &format!("{shape:?}"), begin, end);
                begin = end;
                entry
            })
            .collect();
        header(&entries)
    }
}

fn models() -> impl Strategy<Value = (Model, Vec<usize>)> {
    let shape = prop::collection::vec(0..4_u64, 0..4);
    let names = prop::collection::hash_map("[a-z.]{1,6}", shape, 1..9);
    names
        .prop_filter_map("empty", |tensors| {
            let tensors: Vec<_> = tensors.into_iter().collect();
            let any = tensors
                .iter()
                .any(|(_, shape)| shape.iter().product::<u64>() > 0);
            any.then_some(Model { tensors })
        })
        .prop_flat_map(|model| {
            let order: Vec<usize> = (0..model.tensors.len()).collect();
            (Just(model), Just(order).prop_shuffle())
        })
}

proptest! {
    /// Segments in the file's order tile the file and the model, and put every tensor in its place.
    #[test]
    fn segments_are_a_permutation((model, order) in models()) {
        let canonical: Vec<usize> = (0..model.tensors.len()).collect();
        let layout = ModelLayout::from_header(&model.header(&canonical)).unwrap();
        let update = model.header(&order);
        let segments = layout.match_update(&update).unwrap();

        let mut file_offset = 0;
        let mut placed = vec![None; usize::try_from(layout.data_bytes()).unwrap()];
        for segment in &segments {
            prop_assert_eq!(segment.file_offset, file_offset);
            prop_assert!(segment.bytes > 0 && segment.bytes % 4 == 0);
            for i in 0..segment.bytes {
                let place = &mut placed[usize::try_from(segment.canonical_offset + i).unwrap()];
                prop_assert_eq!(place.replace(segment.file_offset + i), None, "written twice");
            }
            file_offset += segment.bytes;
        }
        prop_assert_eq!(file_offset, update.data_bytes());
        for tensor in layout.tensors() {
            let theirs = update.tensors().iter().find(|t| t.name == tensor.name).unwrap();
            for i in 0..tensor.bytes() {
                prop_assert_eq!(placed[usize::try_from(tensor.begin + i).unwrap()], Some(theirs.begin + i));
            }
        }
    }

    /// A served model is aligned, and this reader and the `safetensors` crate read it alike.
    #[test]
    fn served_headers_are_read_back((model, order) in models(), text in ".{0,20}") {
        let layout = ModelLayout::from_header(&model.header(&order)).unwrap();
        let mut file = layout.header_bytes(&[("note", &text)]);
        prop_assert_eq!(file.len() % ALIGNMENT, 0);
        prop_assert!(file.len() as u64 <= layout.update_header_bytes_max());
        file.resize(file.len() + usize::try_from(layout.data_bytes()).unwrap(), 7);

        let (header, data) = Header::split(&file).unwrap();
        prop_assert_eq!(header.metadata("note"), Some(text.as_str()));
        prop_assert_eq!(data.len() as u64, layout.data_bytes());
        prop_assert_eq!(&ModelLayout::from_header(&header).unwrap(), &layout);
        let theirs = SafeTensors::deserialize(&file).unwrap();
        for tensor in layout.tensors() {
            let view = theirs.tensor(&tensor.name).unwrap();
            prop_assert_eq!(view.data().len() as u64, tensor.bytes());
        }
    }

    /// What the `safetensors` crate writes is read.
    #[test]
    fn foreign_files_are_read((model, _) in models()) {
        let data: HashMap<_, _> = model.tensors.iter().map(|(name, shape)| {
            let shape: Vec<_> = shape.iter().map(|d| usize::try_from(*d).unwrap()).collect();
            let bytes = vec![1_u8; shape.iter().product::<usize>() * 4];
            (name.clone(), (shape, bytes))
        }).collect();
        let views = data.iter().map(|(name, (shape, bytes))| {
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        let (layout, _) = ModelLayout::from_file(&file).unwrap();
        prop_assert_eq!(layout.tensors().len(), model.tensors.len());
    }

    /// Whatever is done to a good file, this reader refuses it or the `safetensors` crate takes it too.
    #[test]
    fn damage_is_refused_or_harmless(
        (model, order) in models(),
        hits in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Option<Index>>(),
    ) {
        let layout = ModelLayout::from_header(&model.header(&order)).unwrap();
        let mut file = layout.header_bytes(&[]);
        let header = file.len();
        file.resize(header + usize::try_from(layout.data_bytes()).unwrap(), 0);
        for (place, byte) in hits {
            file[place.index(header)] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if Header::split(&file).is_ok() {
            prop_assert!(SafeTensors::deserialize(&file).is_ok());
        }
    }

    /// Numbers chosen to overflow never panic, and what is taken is consistent.
    #[test]
    fn hostile_numbers_are_checked(
        shape in prop::collection::vec(prop_oneof![0..4_u64, Just(u64::MAX), Just(1 << 32), any::<u64>()], 0..4),
        begin in prop_oneof![Just(0), any::<u64>()],
        end in prop_oneof![0..64_u64, Just(u64::MAX), any::<u64>()],
    ) {
        let json = format!("{{{}}}", entry("w", "F32", &format!("{shape:?}"), begin, end));
        if let Ok(header) = parse(&json) {
            let elements: u128 = shape.iter().map(|d| u128::from(*d)).product();
            prop_assert_eq!(begin, 0);
            prop_assert_eq!(u128::from(end), elements * 4);
            prop_assert_eq!(header.data_bytes(), end);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::split(&bytes);
        let _ = Header::parse(&bytes);
    }
}
