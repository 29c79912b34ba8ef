//! Makes the job's first model, and shows what the demonstration is compared with.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use digits::federated::{Reference, central};
use digits::{CLIENTS, CONCENTRATION, Dataset, Model, ROUNDS, SEED, shards, tensors};

const USAGE: &str = "usage: digits initial FILE   writes the job's first model
       digits reference      trains in one process: averaged in f64, and centrally";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["initial", file] => initial(Path::new(file)),
        ["reference"] => reference(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn initial(file: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::write(file, tensors::encode(&Model::initial(SEED))?)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
fn reference() -> Result<(), Box<dyn Error>> {
    let data = Dataset::load(SEED)?;
    let shards = shards::deal(&data.train, CLIENTS, CONCENTRATION, SEED)?;
    let sizes: Vec<usize> = shards.iter().map(Vec::len).collect();
    println!(
        "{} images in shards of {sizes:?}, {} to test with",
        data.train.len(),
        data.test.len()
    );
    println!("round  accuracy    loss");
    let mut federated = Reference::new(&shards);
    for round in 1..=ROUNDS {
        let model = federated.next_round();
        let (accuracy, loss) = (100.0 * model.accuracy(&data.test), model.loss(&data.test));
        println!("{round:>5} {accuracy:>7.2} % {loss:>7.4}");
    }
    let model = central(&data.train, ROUNDS);
    let (accuracy, loss) = (100.0 * model.accuracy(&data.test), model.loss(&data.test));
    println!("central {accuracy:>5.2} % {loss:>7.4}");
    Ok(())
}
