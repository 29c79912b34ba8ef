//! Safetensors files that no library would write.

use serde_json::{Map, Value, json};

use crate::tensors::Model;

/// A file in its three parts, each of which may lie about the others.
#[derive(Debug, Clone)]
pub struct Forged {
    /// What the first eight bytes say; by default the header's length.
    pub header_bytes: Option<u64>,
    /// The header's text.
    pub header: String,
    /// The data.
    pub data: Vec<u8>,
}

impl Forged {
    /// An honest file whose tensors lie in the order that `names` gives.
    ///
    /// # Panics
    /// If the model lacks a name.
    #[must_use]
    pub fn in_order(model: &Model, names: &[&str]) -> Self {
        let (mut header, mut data) = (Map::new(), Vec::new());
        let mut entries = Vec::new();
        for name in names {
            let tensor = model
                .tensors
                .iter()
                .find(|tensor| tensor.name == *name)
                .expect("a name of the model");
            let begin = data.len();
            data.extend(tensor.bytes());
            let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.len()] });
            header.insert((*name).into(), entry.clone());
            entries.push(format!("{}:{entry}", Value::from(*name)));
        }
        // Written by hand: the header's own order follows the data's, as files in the wild have it.
        Self {
            header_bytes: None,
            header: format!("{{{}}}", entries.join(",")),
            data,
        }
    }

    /// An honest file, to be spoiled.
    #[must_use]
    pub fn honest(model: &Model) -> Self {
        let names: Vec<&str> = model
            .tensors
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        Self::in_order(model, &names)
    }

    /// The same file with another header: `edit` changes its entries.
    ///
    /// # Panics
    /// If the header is no JSON object any more.
    #[must_use]
    pub fn edited(mut self, edit: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let mut header: Map<String, Value> =
            serde_json::from_str(&self.header).expect("an honest header");
        edit(&mut header);
        self.header = Value::Object(header).to_string();
        self
    }

    /// The same file with another text as its header.
    #[must_use]
    pub fn headed(mut self, header: impl Into<String>) -> Self {
        self.header = header.into();
        self
    }

    /// The bytes.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let length = self.header_bytes.unwrap_or(self.header.len() as u64);
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(self.header.as_bytes());
        file.extend_from_slice(&self.data);
        file
    }
}
