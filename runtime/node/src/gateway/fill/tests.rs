//! Bodies of every encoding into a vector, in any order and cut anywhere.

use super::super::pace::Pace;
use super::*;
use proptest::prelude::*;
use std::io;
use std::time::Duration;
use tributary_api::model::{Encoding, Header};

const PACE: Pace = Pace {
    idle: Duration::from_secs(60),
    credit: Duration::from_secs(60),
    bytes_per_second: 1,
};

/// A body in memory that comes in small portions.
struct Portions<'a> {
    left: &'a [u8],
    portion: usize,
}

impl Source for Portions<'_> {
    const COPIES: u64 = 1;

    fn length(&self) -> Option<u64> {
        None
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = into.len().min(self.portion).min(self.left.len());
        let (now, later) = self.left.split_at(bytes);
        into[..bytes].copy_from_slice(now);
        self.left = later;
        Ok(bytes)
    }
}

/// A tensor as it stands in a file.
#[derive(Clone, Debug)]
struct Piece {
    name: String,
    dtype: &'static str,
    length: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn new(name: String, dtype: &'static str, length: usize, bytes: Vec<u8>) -> Self {
        Self {
            name,
            dtype,
            length,
            bytes,
        }
    }

    fn f32s(name: String, values: &[f32]) -> Self {
        Self::new(name, "F32", values.len(), f32s(values))
    }

    fn u32s(name: String, values: &[u32]) -> Self {
        Self::new(name, "U32", values.len(), u32s(values))
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn header(pieces: &[Piece], block: usize) -> Header {
    let mut begin = 0;
    let mut json = format!(r#"{{"__metadata__":{{"block":"{block}"}}"#);
    for Piece {
        name,
        dtype,
        length,
        bytes,
    } in pieces
    {
        let end = begin + bytes.len();
        json += &format!(
            r#","{name}":{{"dtype":"{dtype}","shape":[{length}],"data_offsets":[{begin},{end}]}}"#
        );
        begin = end;
    }
    Header::parse((json + "}").as_bytes()).unwrap()
}

/// A model of tensors of these lengths.
fn model(lengths: &[usize]) -> ModelLayout {
    let pieces: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(i, length)| Piece::f32s(format!("t{i}"), &vec![0.0; *length]))
        .collect();
    ModelLayout::from_header(&header(&pieces, 1)).unwrap()
}

/// Brings an update into a vector that held something else before; gives what the slot then holds.
fn fill(
    model: &ModelLayout,
    pieces: &[Piece],
    block: usize,
    portion: usize,
) -> Result<Vec<u8>, String> {
    let plan = model.match_update(&header(pieces, block)).unwrap();
    let data: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece.bytes.clone())
        .collect();
    let mut body = Portions {
        left: &data,
        portion,
    };
    let name: Name = "job".parse().unwrap();
    let target = Target {
        job: &name,
        layout: model,
        check_finite: true,
        exact: None,
    };
    let mut vector = vec![0xa5; plan.slot.bytes as usize];
    let mut digest = XxHash3_128::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let filled = runtime.block_on(async {
        let mut reader = Reader::new(&mut body, PACE);
        target
            .fill(&mut vector, &plan, &mut reader, &mut digest)
            .await
    });
    filled.map_err(|refusal| refusal.to_string())?;
    let mut whole = XxHash3_128::new();
    whole.write(&data);
    assert_eq!(
        digest.finish_128(),
        whole.finish_128(),
        "the file's own bytes are hashed"
    );
    Ok(vector)
}

/// A tensor in every encoding's terms.
#[derive(Clone, Debug)]
struct Tensor {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    pairs: Vec<(u32, f32)>,
}

const BLOCK: usize = 7;

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let tensor = (1..40_usize).prop_flat_map(|length| {
        let bytes = proptest::collection::vec(0..0x40_u8, length * 4);
        let scales = proptest::collection::vec(1e-3..1e3_f32, length.div_ceil(BLOCK));
        let pairs =
            proptest::collection::btree_map(0..length as u32, -1e3..1e3_f32, 0..=length.min(20));
        (bytes, scales, pairs).prop_map(|(bytes, scales, pairs)| Tensor {
            bytes,
            scales,
            pairs: pairs.into_iter().collect(),
        })
    });
    proptest::collection::vec(tensor, 1..6)
}

/// The tensors of an update in canonical order, and what a slot holds of it.
fn encoded(tensors: &[Tensor], encoding: Encoding) -> (Vec<Piece>, Vec<u8>) {
    let (mut pieces, mut values, mut table, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (i, tensor) in tensors.iter().enumerate() {
        let length = tensor.bytes.len() / 4;
        let name = |suffix: &str| format!("t{i}{suffix}");
        let width = encoding.value_bytes() as usize;
        let dtype = match encoding {
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::I8 => "I8",
            Encoding::F32 | Encoding::Sparse => "F32",
        };
        if encoding == Encoding::Sparse {
            let (indices, entries): (Vec<u32>, Vec<f32>) = tensor.pairs.iter().copied().unzip();
            pieces.push(Piece::u32s(name(":indices"), &indices));
            pieces.push(Piece::f32s(name(":values"), &entries));
            table.extend(
                indices
                    .iter()
                    .flat_map(|index| (index + first).to_le_bytes()),
            );
            values.extend(f32s(&entries));
        } else {
            let bytes = tensor.bytes[..length * width].to_vec();
            values.extend(&bytes);
            pieces.push(Piece::new(name(""), dtype, length, bytes));
        }
        if encoding == Encoding::I8 {
            pieces.push(Piece::f32s(name(":scale"), &tensor.scales));
            for (run, scale) in tensor.scales.iter().enumerate() {
                table.extend((first + (run * BLOCK) as u32).to_le_bytes());
                table.extend(scale.to_le_bytes());
            }
        }
        first += length as u32;
    }
    let (mut slot, then) = match encoding {
        Encoding::Sparse => (table, values),
        _ => (values, table),
    };
    if matches!(encoding, Encoding::I8 | Encoding::Sparse) {
        slot.resize(slot.len().next_multiple_of(8), 0);
    }
    slot.extend(then);
    (pieces, slot)
}

proptest! {
    /// Whatever the order of the tensors in the file, and wherever the network cuts: the slot holds the same.
    #[test]
    fn any_order_gives_the_same_slot(
        tensors in tensors(), encoding in 0..5_usize, seed in any::<u64>(), portion in 1..200_usize,
    ) {
        let encoding = Encoding::ALL[encoding];
        let lengths: Vec<_> = tensors.iter().map(|tensor| tensor.bytes.len() / 4).collect();
        let (mut pieces, slot) = encoded(&tensors, encoding);
        pieces.sort_by_key(|piece| twox_hash::XxHash3_128::oneshot_with_seed(seed, piece.name.as_bytes()));
        let filled = fill(&model(&lengths), &pieces, BLOCK, portion).unwrap();
        prop_assert_eq!(filled, slot, "{} in {} byte portions", encoding, portion);
    }
}

/// What a client on this host wrote into a slot of its own is checked there.
fn check(model: &ModelLayout, values: &[f32]) -> Result<u128, String> {
    use std::os::unix::fs::FileExt;
    use tributary_arena::{Arena, Geometry, JournalSize, OWNER_AGENT, Room, Slots};
    let room = Slots {
        count: 1,
        vector_bytes: model.data_bytes(),
    };
    let geometry = Geometry {
        updates: room,
        partials: room,
        clients: 1,
        rings: 1,
        ring_records: 8,
        journal: JournalSize::default(),
    };
    let segment = format!("tributary-check-{}", std::process::id());
    let arena = std::sync::Arc::new(Arena::create(&segment, geometry).unwrap());
    let filling = arena.claim(OWNER_AGENT, Room::Update).unwrap().unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/dev/shm/{segment}"));
    file.unwrap()
        .write_all_at(&f32s(values), filling.offset())
        .unwrap();
    let name: Name = "job".parse().unwrap();
    let target = Target {
        job: &name,
        layout: model,
        check_finite: true,
        exact: None,
    };
    let mut digest = XxHash3_128::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let checked = runtime.block_on(target.check(&filling, Mark::new(7), &mut digest));
    checked.map_err(|refusal| refusal.to_string())?;
    Ok(digest.finish_128())
}

#[test]
fn what_lies_in_a_slot_is_hashed_whole_and_its_faults_are_named() {
    let model = model(&[3, MANY, 5]);
    let mut values: Vec<f32> = (0..MANY + 8).map(|i| i as f32).collect();
    let mut whole = XxHash3_128::new();
    whole.write(&f32s(&values));
    assert_eq!(check(&model, &values), Ok(whole.finish_128()));
    for (at, place) in [
        (0, "t0[0]".to_owned()),
        (3 + PIECE_BYTES / 4, format!("t1[{}]", PIECE_BYTES / 4)),
        (MANY + 7, "t2[4]".to_owned()),
    ] {
        let before = std::mem::replace(&mut values[at], f32::INFINITY);
        let error = check(&model, &values).unwrap_err();
        let said = format!("{place} is inf; updates of job job must be finite");
        assert!(error.starts_with(&said), "{error}");
        values[at] = before;
    }
    // The last value counts as well.
    values[MANY + 7] += 1.0;
    assert_ne!(check(&model, &values), Ok(whole.finish_128()));
}

/// More than a piece of 4-byte numbers.
const MANY: usize = PIECE_BYTES / 4 + 1000;

#[test]
fn scales_that_come_in_several_pieces_become_runs() {
    let model = model(&[3, MANY * 4 - 1]);
    let scales: Vec<f32> = (1..=MANY).map(|i| i as f32).collect();
    let pieces = [
        Piece::f32s("t1:scale".into(), &scales),
        Piece::new("t0".into(), "I8", 3, vec![1; 3]),
        Piece::f32s("t0:scale".into(), &[0.5]),
        Piece::new("t1".into(), "I8", MANY * 4 - 1, vec![2; MANY * 4 - 1]),
    ];
    let slot = fill(&model, &pieces, 4, usize::MAX).unwrap();
    let runs: Vec<_> = slot[(MANY * 4 + 2).next_multiple_of(8)..]
        .as_chunks::<8>()
        .0
        .to_vec();
    assert_eq!(runs.len(), MANY + 1);
    assert_eq!(runs[0], [0, 0, 0, 0, 0, 0, 0, 0x3f]);
    for (run, scale) in runs[1..].iter().zip(&scales) {
        let start = 3 + (*scale as u32 - 1) * 4;
        assert_eq!(run[..4], start.to_le_bytes());
        assert_eq!(run[4..], scale.to_le_bytes());
    }
}

#[test]
fn faults_in_later_pieces_are_named_by_their_place() {
    let model = model(&[5, MANY * 4]);
    let mut indices: Vec<u32> = (0..MANY as u32).collect();
    let at = PIECE_BYTES / 4;
    indices[at] = indices[at - 1];
    let pairs = |indices: &[u32], values: &[f32]| {
        let pieces = [
            Piece::u32s("t1:indices".into(), indices),
            Piece::f32s("t1:values".into(), values),
        ];
        fill(&model, &pieces, 1, 100_000)
    };
    let mut values = vec![1.0; MANY];
    let error = pairs(&indices, &values).unwrap_err();
    let before = at - 1;
    assert_eq!(
        error,
        format!(
            "t1:indices[{at}] is {before}; it follows {before}, but indices must ascend: sort them, and give each once"
        )
    );
    indices[at] = MANY as u32 * 4;
    let error = pairs(&indices, &values).unwrap_err();
    let elements = MANY * 4;
    assert_eq!(
        error,
        format!(
            "t1:indices[{at}] is {elements}; the tensor has {elements} elements, and indices count from 0"
        )
    );
    indices[at] = at as u32;
    values[at + 7] = f32::NAN;
    let error = pairs(&indices, &values).unwrap_err();
    assert!(
        error.starts_with(&format!(
            "t1:values[{}] is NaN; updates of job job must be finite",
            at + 7
        )),
        "{error}"
    );
}

#[test]
fn bad_scales_and_halves_are_named_by_their_place() {
    let model = model(&[2, 3]);
    let pieces = [
        Piece::new("t0".into(), "I8", 2, vec![1; 2]),
        Piece::f32s("t0:scale".into(), &[1.0]),
        Piece::new("t1".into(), "I8", 3, vec![1; 3]),
        Piece::f32s("t1:scale".into(), &[1.0, -2.0]),
    ];
    let error = fill(&model, &pieces, 2, 3).unwrap_err();
    assert!(
        error.starts_with("t1:scale[1] is -2; a scale must be a finite number above 0"),
        "{error}"
    );
    let pieces = [
        Piece::new("t0".into(), "F16", 2, vec![0; 4]),
        Piece::new("t1".into(), "F16", 3, vec![0, 0, 0, 0xfc, 0, 0]),
    ];
    let error = fill(&model, &pieces, 1, 3).unwrap_err();
    assert!(
        error.starts_with("t1[1] is -inf; updates of job job must be finite"),
        "{error}"
    );
}
