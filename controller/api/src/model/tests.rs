//! Headers that lie, and layouts that differ.

mod encodings;
mod properties;

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
    for json in ["", "[]", "{", "nonsense", "{}{}", "\u{feff}{}"] {
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
fn what_the_reference_library_takes_is_taken() {
    let entry = r#""w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]"#;
    for json in [
        format!("{{\"__metadata__\":null,{entry}}}}}"),
        format!(" \t\r\n{{{entry}}}}} \n"),
        format!("{{{entry},\"extra\":[1,{{\"more\":null}}]}}}}"),
    ] {
        let header = parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(header.tensors().len(), 1, "{json}");
    }
}

#[test]
fn files_of_other_kinds_are_called_so() {
    let files: [(&[u8], &str); 9] = [
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x1f\x8b\x08\x00\x12\x34\x56\x78", "gzip"),
        (b"\x80\x04\x95\x1f\x20\x00\x00\x00", "pickle"),
        (b"\x80\x02}q\x00(X\x06", "pickle"),
        (b"PK\x03\x04\x00\x00\x08\x08", "ZIP archive, as torch.save"),
        (b"\x93NUMPY\x01\x00", "numpy.save"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"{\"url\": \"http://\"}", "JSON"),
        (b"# A page", "text"),
    ];
    for (file, kind) in files {
        let error = Header::split(file).unwrap_err().to_string();
        assert!(
            error.starts_with("this is no safetensors file, but"),
            "{error}"
        );
        assert!(error.contains(kind), "{error}");
    }
    // A header may well be as long as the number that a brace is, also where it is too long.
    let brace = *b"{\0\0\0\0\0\0\0";
    assert_eq!(header_length(brace, HEADER_BYTES_MAX), Ok(123));
    let too_long = HeaderError::HeaderLength {
        length: 123,
        max: 100,
    };
    assert_eq!(header_length(brace, 100), Err(too_long));
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
fn metadata_has_a_limit_of_its_own() {
    let header = |bytes: u64| {
        let value = "x".repeat(bytes as usize - 1);
        let text = format!(
            r#"{{"__metadata__":{{"k":"{value}"}},{}}}"#,
            entry("w", "F32", "[1]", 0, 4)
        );
        Header::parse(text.as_bytes())
    };
    assert!(header(METADATA_BYTES_MAX).is_ok());
    let error = header(METADATA_BYTES_MAX + 1).unwrap_err();
    assert!(
        error.to_string().contains("__metadata__ has 65537 bytes"),
        "{error}"
    );
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
        "tensor \"w\" is F16; models must be F32 in this version: convert it if its elements are numbers to be \
         averaged (torch: .float(), numpy: .astype(\"float32\")), and leave it out of model and updates if not, \
         as with counters (num_batches_tracked)"
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
    let place = |part| two().place_in(part, 2);
    assert_eq!(place(Part::Elements { first: 3 }), "w[1, 2]");
    assert_eq!(place(Part::Values { tensor: 1 }), "b:values[2]");
}

#[test]
fn an_update_in_the_same_order_is_one_segment() {
    let same = [
        entry("w", "F32", "[2,3]", 0, 24),
        entry("b", "F32", "[3]", 24, 36),
    ];
    let whole = Segment {
        file_offset: 0,
        slot_offset: 0,
        bytes: 36,
        part: Part::Elements { first: 0 },
    };
    let plan = two().match_update(&header(&same)).unwrap();
    assert_eq!(plan.segments, [whole]);
    assert_eq!(plan.slot, SlotLayout::new(Encoding::F32, 9, 0).unwrap());
}
