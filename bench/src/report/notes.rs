//! What people have written about benchmarks and figures: `bench/notes.md`.

use std::collections::BTreeMap;

/// Texts by what they are about: `# benchmark` and `## figure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(BTreeMap<String, String>);

impl Notes {
    /// Reads the notes.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut notes = BTreeMap::<String, String>::new();
        let mut about = String::new();
        for line in text.lines() {
            match line.strip_prefix("## ").or_else(|| line.strip_prefix("# ")) {
                Some(name) => name.trim().clone_into(&mut about),
                None if about.is_empty() => {}
                None => {
                    let note = notes.entry(about.clone()).or_default();
                    note.push_str(line);
                    note.push('\n');
                }
            }
        }
        Self(notes)
    }

    /// What is written about a benchmark, or about a figure: under its own name, or under the longest beginning of it
    /// that ends before a dot.
    #[must_use]
    pub fn about(&self, name: &str) -> Option<&str> {
        let beginnings = name.match_indices('.').map(|(at, _)| &name[..at]);
        let mut names: Vec<&str> = beginnings.skip(1).chain([name]).collect();
        names.reverse();
        let note = names.into_iter().find_map(|name| self.0.get(name))?;
        Some(note.trim()).filter(|note| !note.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_by_name_and_by_beginning() {
        let notes = Notes::parse(
            "ignored\n# fold\nIntro\n\nmore\n## fold.r18\nAll of r18.\n## fold.r18.wasm\nWasm.\n",
        );
        assert_eq!(notes.about("fold"), Some("Intro\n\nmore"));
        assert_eq!(notes.about("fold.r18.wasm"), Some("Wasm."));
        assert_eq!(notes.about("fold.r18.native"), Some("All of r18."));
        assert_eq!(notes.about("fold.r152.native"), None);
        assert_eq!(notes.about("hop"), None);
    }
}
