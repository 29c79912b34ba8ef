//! `tributary schema`.

use tributary_api::manifest::{Kind, schema};

use crate::{failure::Failure, output::Output};

pub(crate) fn run(output: &Output, kind: Option<Kind>) -> Result<(), Failure> {
    // A schema has no other form for people.
    output.write(schema(kind), |schema| format!("{schema:#}\n"))
}
