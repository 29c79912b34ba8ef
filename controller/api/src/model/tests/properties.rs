//! Layouts in every order, damaged files, and the `safetensors` crate as a second opinion.

use std::collections::HashMap;

use proptest::{prelude::*, sample::Index};
use safetensors::{SafeTensors, tensor::TensorView};

use super::{super::*, entry, header, parse};

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
        let segments = layout.match_update(&update).unwrap().segments;

        let mut file_offset = 0;
        let mut placed = vec![None; usize::try_from(layout.data_bytes()).unwrap()];
        for segment in &segments {
            prop_assert_eq!(segment.file_offset, file_offset);
            prop_assert!(segment.bytes > 0 && segment.bytes % 4 == 0);
            for i in 0..segment.bytes {
                let place = &mut placed[usize::try_from(segment.slot_offset + i).unwrap()];
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
