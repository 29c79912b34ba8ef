//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use crate::network::{HostOptions, NatsOptions, ServedOptions};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use tributary_api::{ClientName, Name, manifest::Kind, quantity::Interval};
use tributary_node::Prefix;
use tributary_router::Choice;

/// The address of a server on the same machine.
const LISTEN: &str = "127.0.0.1:7878";

/// The address of a node that is no controller.
const NODE_LISTEN: &str = "127.0.0.1:8470";

/// Where a client looks for a server.
const SERVER: &str = "http://127.0.0.1:7878";

const EXIT_CODES: &str = "\
Data goes to stdout, everything else to stderr.

Exit codes:
  0  done
  1  failed
  2  wrong usage, or an invalid manifest
  3  the server cannot be reached
  4  not found
  5  conflict: wrong round, other bytes than before, or in use";

/// Aggregates the updates of federated-learning jobs.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// The server's address.
    #[arg(long, global = true, env = "TRIBUTARY_SERVER", default_value = SERVER, value_name = "URL", help_heading = "Global options")]
    pub(crate) server: String,
    /// How data is written to stdout.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) output: Format,
}

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// As the server says it.
    Json,
    /// The same in YAML.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a controller and a node in this process.
    Up(UpOptions),
    /// Start a controller of many nodes, which it finds by NATS.
    ///
    /// Several may run; one leads, and the others take over when it is gone.
    Controller(ControllerOptions),
    /// Start a node of several, which controllers find by NATS.
    Node(NodeOptions),
    /// Host aggregators; started by the agent only.
    #[command(hide = true)]
    Worker,
    /// Compile and prove a function; started by the agent only.
    #[command(hide = true)]
    Prove,
    /// Create or change functions, tenants and jobs from manifests, all or none.
    ///
    /// Files that the manifests name are uploaded under their digests.
    Apply {
        /// A file of manifests, a directory of such files (*.yaml, *.yml), or - for stdin.
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Say what would change, and change nothing. What is in files that the server does not have is checked as
        /// `validate` does, and not uploaded.
        #[arg(long)]
        dry_run: bool,
    },
    /// List jobs, functions, tenants, nodes, or the rounds of a job.
    #[command(subcommand)]
    Get(Get),
    /// Show everything about one job, function, tenant or node.
    #[command(subcommand)]
    Describe(Describe),
    /// Delete a job, or a function or tenant that no job uses.
    #[command(subcommand)]
    Delete(Delete),
    /// Move a node's work to other nodes, and assign it no new work.
    Drain {
        /// The node.
        node: Name,
    },
    /// Give a drained node work again.
    Undrain {
        /// The node.
        node: Name,
    },
    /// Check manifests without a server.
    Validate {
        /// A file of manifests, a directory of such files (*.yaml, *.yml), or - for stdin.
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Send a client's update to a job, in F32 or in another encoding that the job's function takes.
    ///
    /// The file is sent as it is; its tensors show its encoding:
    ///
    ///   f32, f16, bf16  every tensor of the model, all of type F32, F16 or BF16
    ///   i8              every tensor NAME in I8, and NAME:scale in F32: one number for the tensor, or one for
    ///                   each block of as many elements as "block" in __metadata__ says
    ///   sparse          NAME:indices in U32 or I32, ascending, and NAME:values in F32, for every tensor that
    ///                   has entries; what is not named is 0
    #[command(verbatim_doc_comment)]
    Push(Push),
    /// Fetch a job's newest model.
    Pull(Pull),
    /// Check this machine: what is missing, and what follows from that.
    Doctor(DoctorOptions),
    /// Print the JSON Schema of a kind of manifest, or of all.
    Schema {
        /// The kind.
        #[arg(value_parser = parse_kind)]
        kind: Option<Kind>,
    },
    /// Print a script that completes this command line in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UpOptions {
    /// The address to listen on.
    #[arg(long, default_value = LISTEN, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) hosts: HostOptions,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
}

/// How a node uses its machine.
#[derive(Debug, ClapArgs)]
pub(crate) struct MachineOptions {
    /// Where state is kept [default: $XDG_STATE_HOME/tributary or ~/.local/state/tributary].
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How descriptors are routed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sidecar: SidecarChoice,
    /// The most worker processes [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: Option<u32>,
    /// The autoscaler's parameters, in YAML or JSON [default: built in].
    #[arg(long, value_name = "FILE", env = "TRIBUTARY_AUTOSCALER")]
    pub(crate) autoscaler: Option<PathBuf>,
    /// Where the autoscaler's decisions are recorded, a line of JSON each [default: nowhere].
    #[arg(long, value_name = "FILE", env = "TRIBUTARY_AUTOSCALER_TRACE")]
    pub(crate) autoscaler_trace: Option<PathBuf>,
    /// Allow updates to be fetched from URLs with this prefix; may be given several times [default: from none].
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        env = "TRIBUTARY_FETCH_FROM"
    )]
    pub(crate) fetch_from: Vec<Prefix>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ControllerOptions {
    /// The address to listen on.
    #[arg(long, default_value = LISTEN, value_name = "ADDR", env = "TRIBUTARY_LISTEN")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) served: ServedOptions,
    #[command(flatten)]
    pub(crate) nats: NatsOptions,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NodeOptions {
    /// The address to listen on.
    #[arg(long, default_value = NODE_LISTEN, value_name = "ADDR", env = "TRIBUTARY_LISTEN")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) served: ServedOptions,
    /// A label that jobs can ask for; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label, env = "TRIBUTARY_LABELS", value_delimiter = ',')]
    pub(crate) labels: Vec<(String, String)>,
    /// The updates that it can have in service at once, for placement [default: learnt under load].
    #[arg(long, value_name = "N", env = "TRIBUTARY_CAPACITY", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) capacity: Option<u32>,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    /// A bucket of NATS' object store from which updates may be fetched; may be given several times.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "updates",
        env = "TRIBUTARY_FETCH_BUCKETS"
    )]
    pub(crate) fetch_bucket: Vec<String>,
    #[command(flatten)]
    pub(crate) nats: NatsOptions,
}

/// How descriptors are routed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SidecarChoice {
    /// In the kernel if it can be, else in user space.
    #[default]
    Auto,
    /// In the kernel, or do not start.
    Ebpf,
    /// In user space.
    Userspace,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Get {
    /// Jobs.
    #[command(visible_alias = "job")]
    Jobs {
        /// Only this job.
        name: Option<Name>,
    },
    /// Functions.
    #[command(visible_alias = "function")]
    Functions {
        /// Only this function.
        name: Option<Name>,
    },
    /// Tenants.
    #[command(visible_alias = "tenant")]
    Tenants {
        /// Only this tenant.
        name: Option<Name>,
    },
    /// Nodes.
    #[command(visible_alias = "node")]
    Nodes,
    /// The rounds of a job, the newest first.
    #[command(visible_alias = "round")]
    Rounds {
        /// The job.
        job: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Describe {
    /// A job.
    Job {
        /// Its name.
        name: Name,
    },
    /// A function.
    Function {
        /// Its name.
        name: Name,
    },
    /// A tenant.
    Tenant {
        /// Its name.
        name: Name,
    },
    /// A node.
    Node {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Delete {
    /// A job with all its models.
    Job {
        /// Its name.
        name: Name,
    },
    /// A function that no job uses.
    Function {
        /// Its name.
        name: Name,
    },
    /// A tenant that has no job.
    Tenant {
        /// Its name.
        name: Name,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Push {
    /// The job.
    pub(crate) job: Name,
    /// The update: a safetensors file with the job's tensors, in one of the encodings; or - for stdin.
    pub(crate) file: PathBuf,
    /// The client's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) client: ClientName,
    /// The round [default: `round` in the file's metadata].
    #[arg(long)]
    pub(crate) round: Option<u64>,
    /// The update's weight, often its number of examples [default: `num_examples` in the file's metadata].
    #[arg(long)]
    pub(crate) weight: Option<f64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pull {
    /// The job.
    pub(crate) job: Name,
    /// Where the model goes [default: stdout].
    #[arg(short = 'o', long = "to", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Only a model newer than this version; without one the exit code is 1.
    #[arg(long, value_name = "VERSION")]
    pub(crate) after: Option<u64>,
    /// How long to wait for a newer model.
    #[arg(long, requires = "after", value_name = "TIME")]
    pub(crate) wait: Option<Interval>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorOptions {
    /// The state directory to check [default: $XDG_STATE_HOME/tributary or ~/.local/state/tributary].
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl From<SidecarChoice> for Choice {
    fn from(choice: SidecarChoice) -> Self {
        match choice {
            SidecarChoice::Auto => Self::Auto,
            SidecarChoice::Ebpf => Self::Ebpf,
            SidecarChoice::Userspace => Self::Userspace,
        }
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !text.contains(char::is_whitespace) => {
            Ok((key.into(), value.into()))
        }
        _ => Err("write KEY=VALUE without spaces, as in zone=eu".into()),
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let known = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str().eq_ignore_ascii_case(text));
    known.ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("the kinds are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_may_be_fetched_is_checked_at_the_start() {
        let parse = |url| Args::try_parse_from(["tributary", "up", "--fetch-from", url]);
        assert!(parse("http://files:9000/updates,https://bucket.example").is_ok());
        let error = parse("files:9000").unwrap_err().to_string();
        assert!(error.contains("neither http:// nor https://"), "{error}");
    }

    #[test]
    fn kinds_are_taken_in_any_case() {
        assert_eq!(parse_kind("job"), Ok(Kind::Job));
        assert_eq!(
            parse_kind("jobs"),
            Err("the kinds are Function, Tenant, Job".into())
        );
    }
}
