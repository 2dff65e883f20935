//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Rebuild a vector database from its source corpus, and prove on a schedule that you can.
#[derive(Debug, Parser)]
#[command(name = "regrow", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Settings: flags win over environment variables, which win over the pipeline file.\n\
    Any key of the pipeline file can be set with --set corpus.url=DIR or with the variable REGROW__CORPUS__URL.\n\n\
    Exit codes: 0 ok, 1 unexpected, 2 usage or configuration, 10 corpus differs or a document is bad,\n\
    11 model mismatch or no model, 20 target failed, 30 validation failed, 40 RTO missed, 41 RPO missed, 130 cancelled.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Pipeline file
    #[arg(short, long, global = true, env = "REGROW_PIPELINE", default_value = "regrow.toml", value_name = "FILE")]
    pub(crate) pipeline: PathBuf,
    /// Set a key of the pipeline, for example corpus.url=docs (repeatable)
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Use a replica instead of the primary repository: a name of [[repository.replicas]], or a URL
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) repository: Option<String>,
    /// Print exactly one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How progress is told where stderr is not a terminal
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Where to embed: auto, cpu, cuda:N or metal [default: the pipeline's `model.device`]
    #[arg(long, global = true, env = "REGROW_DEVICE", value_name = "DEVICE")]
    pub(crate) device: Option<regrow::embed::Device>,
    /// Where models are kept [default: the user's cache directory]
    #[arg(long, global = true, env = "REGROW_CACHE", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Never fetch anything from a network
    #[arg(long, global = true, env = "REGROW_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// How long to wait for another run that holds the repository, for example 10m
    #[arg(
        long,
        global = true,
        env = "REGROW_LOCK_WAIT",
        default_value = "0s",
        value_name = "SPAN",
        hide_default_value = true
    )]
    pub(crate) lock_wait: String,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a pipeline file with every setting explained
    Init(InitArgs),
    /// Show what a restore would do, how long it would take and what is reused
    Plan(PlanArgs),
    /// Record corpus, chunking rules and model context
    Snapshot(SnapshotArgs),
    /// Rebuild the collection from the corpus
    Restore(RestoreArgs),
    /// Restore into a scratch collection, measure, validate, record, and delete it
    Drill(DrillArgs),
    /// Write the documents that a snapshot has captured into a directory
    Extract(ExtractArgs),
    /// Read the repository again and compare every digest
    Verify(VerifyArgs),
    /// Mend what is damaged: from replicas, from the corpus, from what is there
    Repair(RepairArgs),
    /// Bring what replicas of the repository lack to them
    Copy(CopyArgs),
    /// Remove snapshots, by id or by the rules of [retention]
    Forget(super::retention::ForgetArgs),
    /// Remove what no snapshot needs any more: marked first, removed after a grace
    Prune(super::retention::PruneArgs),
    /// Remove locks that dead runs left behind
    Unlock(super::retention::UnlockArgs),
    /// Serve the collection again that was served before the last restore
    Rollback(RollbackArgs),
    /// Show what would be lost now, what is served, and when it was last proven
    Status,
    /// Compare two snapshots, or a snapshot and the corpus as it is now
    Diff(super::diff::DiffArgs),
    /// List the snapshots
    List,
    /// Show a snapshot
    Show(ShowArgs),
    /// Search a collection with a text
    Query(QueryArgs),
    /// List, add, remove or rotate what opens an encrypted repository
    Key {
        #[command(subcommand)]
        action: super::keys::KeyAction,
    },
    /// List, show or fetch models
    Models(ModelsArgs),
    /// Check that everything a restore needs is there and fits together
    Doctor,
    /// Measure this machine
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// Shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Take a snapshot of a directory, restore it into the embedded database, validate it and search it
    Quickstart(QuickstartArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: BenchWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchWhat {
    /// Embedding: texts and tokens per second, and the share of what the processor can multiply
    Embed(BenchEmbedArgs),
    /// Loading: points per second into the pipeline's target, in a collection that is deleted afterwards, and its index
    Load(BenchLoadArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchLoadArgs {
    /// Points that are loaded
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub(crate) points: usize,
    /// Dimension of their vectors
    #[arg(long, default_value_t = 384, value_name = "N")]
    pub(crate) dimension: usize,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) rounds: usize,
    /// Do not build the index
    #[arg(long)]
    pub(crate) no_index: bool,
    /// Command that does the same with another client, in turns: it prints a JSON object with `load_seconds` and perhaps
    /// `index_seconds`; REGROW_BENCH_POINTS, _DIMENSION, _WRITERS and _INDEX say what to load. benches/peers/load.py is one
    #[arg(long, value_name = "COMMAND")]
    pub(crate) peer: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchEmbedArgs {
    /// Model card whose files are used
    #[arg(long, default_value = "all-MiniLM-L6-v2", value_name = "NAME")]
    pub(crate) model: String,
    /// Directory or URL with the model's files
    #[arg(long, value_name = "URL")]
    pub(crate) source: Option<String>,
    /// Random weights of this shape instead: minilm, bert-base, bge-large
    #[arg(long, value_name = "SHAPE")]
    pub(crate) shape: Vec<String>,
    /// Number formats [default: f32, bf16 and int8; on a GPU f32, bf16 and f16]
    #[arg(long, value_delimiter = ',', value_name = "DTYPE")]
    pub(crate) dtype: Vec<String>,
    /// Tokens per text [default: 32, 120 and 512, as far as the model takes them]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) tokens: Vec<usize>,
    /// Texts of each length
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub(crate) texts: usize,
    /// Texts from this file instead, one JSON string or object with `text` per line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "texts"])]
    pub(crate) input: Option<std::path::PathBuf>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) rounds: usize,
    /// Workers; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) workers: usize,
    /// Use these instructions of the CPU instead of its best, to see what another machine would do
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    pub(crate) instructions: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the pipeline [default: the directory's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Directory or URL of the documents
    #[arg(long, default_value = "docs", value_name = "URL")]
    pub(crate) corpus: String,
    /// Directory or URL of the repository
    #[arg(long, default_value = ".regrow/repository", value_name = "URL")]
    pub(crate) repository: String,
    /// Directory of the embedded database
    #[arg(long, default_value = ".regrow/database", value_name = "DIR")]
    pub(crate) database: String,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SnapshotChoice {
    /// `latest`, a snapshot id, or the beginning of one
    #[arg(short, long, default_value = "latest", value_name = "ID")]
    pub(crate) snapshot: String,
    /// Read from this replica instead of the primary repository
    #[arg(long, value_name = "NAME", conflicts_with = "repository")]
    pub(crate) from: Option<String>,
}

/// Where the documents come from.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DocumentsChoice {
    /// Read the documents from the corpus, even if the snapshot holds copies of them
    #[arg(long, conflicts_with = "from_captured")]
    pub(crate) from_corpus: bool,
    /// Read the documents from the snapshot's own copies [default: where it has them]
    #[arg(long)]
    pub(crate) from_captured: bool,
}

impl From<DocumentsChoice> for regrow::restore::DocumentSource {
    fn from(choice: DocumentsChoice) -> Self {
        match (choice.from_corpus, choice.from_captured) {
            (true, _) => Self::Corpus,
            (_, true) => Self::Captured,
            _ => Self::Auto,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) choice: SnapshotChoice,
    #[command(flatten)]
    pub(crate) documents: DocumentsChoice,
}

#[derive(Debug, Args)]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) choice: SnapshotChoice,
    /// Directory to write into; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Only objects whose path matches, for example docs/**/*.md (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Do not look at the live collection
    #[arg(long)]
    pub(crate) skip_target: bool,
    /// Read every document, even where size, time and tag are those of the previous snapshot
    #[arg(long)]
    pub(crate) rehash: bool,
    /// A word to find the snapshot by (repeatable)
    #[arg(long = "tag", value_name = "WORD")]
    pub(crate) tags: Vec<String>,
}

/// What to do about documents that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnChangedArg {
    /// Fail with the list
    Fail,
    /// Restore without them, by name
    Skip,
}

impl From<OnChangedArg> for regrow::restore::OnChanged {
    fn from(arg: OnChangedArg) -> Self {
        match arg {
            OnChangedArg::Fail => Self::Fail,
            OnChangedArg::Skip => Self::Skip,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) choice: SnapshotChoice,
    #[command(flatten)]
    pub(crate) documents: DocumentsChoice,
    /// Print the plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What to do about documents that changed since the snapshot
    #[arg(long, value_enum, default_value_t = OnChangedArg::Fail)]
    pub(crate) on_changed: OnChangedArg,
    /// Build a new collection even if one with the same content is there
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Leave the production name where it is
    #[arg(long)]
    pub(crate) no_promote: bool,
    /// After promoting, delete the collection that was served before
    #[arg(long, conflicts_with = "no_promote")]
    pub(crate) drop_previous: bool,
    /// Where the production name is a collection that regrow did not make, take it over and rename it
    #[arg(long, conflicts_with = "no_promote")]
    pub(crate) adopt: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Serve this collection instead of the newest earlier one
    #[arg(long, value_name = "NAME", conflicts_with_all = ["list", "delete"])]
    pub(crate) to: Option<String>,
    /// Show the collections that are kept, and change nothing
    #[arg(long, conflicts_with = "delete")]
    pub(crate) list: bool,
    /// Delete this collection, which must not be served
    #[arg(long, value_name = "NAME")]
    pub(crate) delete: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    pub(crate) choice: SnapshotChoice,
    #[command(flatten)]
    pub(crate) documents: DocumentsChoice,
    /// Use vectors that are in the repository instead of computing all of them again
    #[arg(long)]
    pub(crate) reuse: bool,
    /// What to do about documents that changed since the snapshot
    #[arg(long, value_enum, default_value_t = OnChangedArg::Fail)]
    pub(crate) on_changed: OnChangedArg,
    /// Show the records of earlier drills instead
    #[arg(long)]
    pub(crate) history: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only check that objects are there with the right size
    #[arg(long, conflicts_with = "read_data_subset")]
    pub(crate) quick: bool,
    /// Read only a part of the data: a share (5%), an amount (5G), or one of several groups (1/7)
    #[arg(long, value_name = "PART", value_parser = subset)]
    pub(crate) read_data_subset: Option<regrow::verify::Subset>,
    /// Choose that part as an earlier run did
    #[arg(long, value_name = "N", requires = "read_data_subset")]
    pub(crate) seed: Option<u64>,
    /// Only what this snapshot needs: `latest`, an id or the beginning of one
    #[arg(short, long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// Verify this replica instead of the primary repository
    #[arg(long, value_name = "NAME", conflicts_with = "repository")]
    pub(crate) from: Option<String>,
}

fn subset(text: &str) -> Result<regrow::verify::Subset, String> {
    text.parse().map_err(|e: regrow::Error| match e.next_step() {
        Some(next) => format!("{}: {next}", e.message()),
        None => e.message().to_owned(),
    })
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Say what would be done and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take objects from this replica only: a name of the pipeline, or a URL [default: all replicas]
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,
    /// Look for damage by names and sizes only
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only what this snapshot needs: `latest`, an id or the beginning of one
    #[arg(short, long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Replica to copy to: a name of the pipeline, or a URL; `primary` with --repository (repeatable) [default: all replicas]
    #[arg(long, value_name = "NAME")]
    pub(crate) to: Vec<String>,
    /// Only this snapshot: `latest`, an id or the beginning of one (repeatable) [default: all]
    #[arg(short, long = "snapshot", value_name = "ID")]
    pub(crate) snapshots: Vec<String>,
    /// Say what would be copied and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Say how far each replica is behind; exit code 30 if one is
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) check: bool,
    /// Leave vector sets out: a restore from the replica computes them again
    #[arg(long)]
    pub(crate) no_vectors: bool,
    /// Leave the records of drills out
    #[arg(long)]
    pub(crate) no_drills: bool,
    /// Do not read back what was written
    #[arg(long)]
    pub(crate) trust_store: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// `latest`, a snapshot id, or the beginning of one
    #[arg(default_value = "latest", value_name = "ID")]
    pub(crate) snapshot: String,
    /// List its documents too
    #[arg(long)]
    pub(crate) documents: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// The question
    pub(crate) text: String,
    /// How many chunks
    #[arg(short, default_value_t = 5)]
    pub(crate) k: usize,
    /// Collection [default: the production collection]
    #[arg(long)]
    pub(crate) collection: Option<String>,
    /// Only this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only documents whose acl lists this principal (repeatable: any of them)
    #[arg(long)]
    pub(crate) acl: Vec<String>,
    /// Only where a payload field has this value, for example metadata.year=2026 (repeatable)
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    pub(crate) conditions: Vec<String>,
    /// Search without the index
    #[arg(long)]
    pub(crate) exact: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) action: Option<ModelsAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsAction {
    /// List the model cards
    List,
    /// Show a card
    Show {
        /// Name of a card, or path of a card file
        name: String,
    },
    /// Fetch a model's files into the cache
    Fetch {
        /// Name of a card, or path of a card file
        name: String,
        /// Directory or URL to take the files from
        #[arg(long)]
        source: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Documents [default: the README files of the crates that regrow was built from]
    pub(crate) directory: Option<PathBuf>,
    /// Where pipeline, repository and database are kept
    #[arg(long, default_value = ".regrow/quickstart", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// A question to ask (repeatable)
    #[arg(long = "query", value_name = "TEXT")]
    pub(crate) queries: Vec<String>,
}
