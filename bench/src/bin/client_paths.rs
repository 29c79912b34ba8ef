//! The Python client's two ways to a slot: a body over loopback, and shared memory.

use anyhow::{Result, bail};
use clap::Parser;
use tributary_bench::figure::Target;
use tributary_bench::peer::Peer;
use tributary_bench::{Contender, Figure, Model, Options, Output, Server, interleave};

/// Updates that are sent in a turn.
const UPDATES: usize = 8;
/// More than are sent in all: the round stays open, and no time goes into models.
const EXPECTED: u32 = 1000;

#[derive(Parser)]
#[command(about = "Updates of the Python client, as bodies and through shared memory")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// A server, and a Python process that sends to it.
struct Way {
    server: Server,
    client: Peer,
}

impl Way {
    fn open(path: &str, model: &Model) -> Result<Self> {
        let server = Server::start()?;
        server.deploy(model, EXPECTED, |_| ())?;
        let url = format!("http://{}", server.address());
        let variables = [("TRIBUTARY_SERVER", url.as_str()), ("TRIBUTARY_PATH", path)];
        let client = Peer::start_with("client_paths.py", model, UPDATES, &variables)?;
        Ok(Self { server, client })
    }

    fn close(self) -> Result<()> {
        drop(self.client);
        self.server.stop()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let output = Output::new("client_paths");
    let model = Model::resnet18();
    let (mut http, mut local) = (Way::open("http", &model)?, Way::open("local", &model)?);
    let mut contenders = [
        Contender::new("bodies", || http.client.run()),
        Contender::new("shared memory", || local.client.run()),
    ];
    let times = interleave(2, arguments.options.runs(), &mut contenders)?;
    drop(contenders);
    http.close()?;
    local.close()?;
    let [http, local] = times.as_slice() else {
        bail!("two contenders");
    };
    let rate = |seconds: f64| (model.bytes() * UPDATES as u64) as f64 / seconds / 1e9;
    let (by_http, by_local) = (http.map(rate)?, local.map(rate)?);
    let figure =
        |name, label, samples| Figure::new(name, label, "GB/s", samples).plot("client-paths");
    output.figure(&figure("client_paths.http", "HTTP bodies", &by_http))?;
    output.figure(
        &figure("client_paths.local", "shared memory", &by_local)
            .against("HTTP bodies", by_local.median() / by_http.median())
            .target(Target::RatioAtLeast(3.0)),
    )
}
