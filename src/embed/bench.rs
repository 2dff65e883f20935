//! Measuring the engine: speed by model shape, number format, instructions and length of texts.

use std::time::Instant;

use serde::Serialize;

use super::device::Place;
use super::kernels::{Cpu, Format};
use super::{Device, Engine, Role, Tokenizer};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Dtype, ModelFiles};
use crate::pipeline::ModelSettings;

/// A network of a known size with random weights: speed does not depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Layers.
    pub layers: usize,
    /// Columns of a token's row.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Columns inside the feed-forward network.
    pub inner: usize,
}

impl Shape {
    /// The shapes that are known by name: all-MiniLM-L6-v2, BERT-base (BGE-base, E5-base,
    /// GTE-base) and BERT-large (BGE-large, E5-large).
    pub const ALL: [Self; 3] = [
        Self { name: "minilm", layers: 6, hidden: 384, heads: 12, inner: 1536 },
        Self { name: "bert-base", layers: 12, hidden: 768, heads: 12, inner: 3072 },
        Self { name: "bge-large", layers: 24, hidden: 1024, heads: 16, inner: 4096 },
    ];

    /// A shape by its name.
    ///
    /// # Errors
    /// `Configuration` for an unknown name.
    pub fn find(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.name == name).ok_or_else(|| {
            Error::new(ErrorKind::Configuration, "there is no such shape")
                .with("shape", name)
                .guidance(format!("known are {}", Self::ALL.map(|s| s.name).join(", ")))
        })
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Random weights of this shape, instead of the model's own.
    pub shape: Option<Shape>,
    /// Number format; the machine's choice when absent.
    pub dtype: Option<Dtype>,
    /// Where to compute.
    pub device: Device,
    /// Instructions of the CPU by name ([`instructions`]); the machine's best when absent.
    pub instructions: Option<String>,
    /// Workers; 0 means one per core.
    pub workers: usize,
    /// How often everything is embedded; each time is reported.
    pub rounds: usize,
}

/// What one configuration reached.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// Name of the model or shape.
    pub model: String,
    /// Number format.
    pub dtype: Dtype,
    /// The CPU's instructions, or the devices.
    pub device: String,
    /// Workers.
    pub workers: usize,
    /// Texts.
    pub texts: usize,
    /// Tokens of all texts, special tokens included.
    pub tokens: u64,
    /// Wall time of each round, tokenising included.
    pub seconds: Vec<f64>,
    /// At the median of the rounds.
    pub texts_per_second: f64,
    /// At the median of the rounds.
    pub tokens_per_second: f64,
    /// Multiplications and additions of the network's products, in 10⁹ per second.
    pub gflops: f64,
    /// What the workers together reach in a loop that only multiplies registers, or devices in a product
    /// of large matrices.
    pub peak_gflops: f64,
    /// `gflops / peak_gflops`.
    pub share_of_peak: f64,
}

/// Names of the instruction sets that this machine can use, best first.
pub fn instructions() -> Vec<&'static str> {
    Cpu::all().into_iter().map(Cpu::name).collect()
}

fn cpu(name: &str) -> Result<Cpu> {
    Cpu::all().into_iter().find(|c| c.name() == name).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "this machine does not have these instructions")
            .with("instructions", name)
            .guidance(format!("it has {}", instructions().join(", ")))
    })
}

/// Embeds the texts a few times.
///
/// # Errors
/// As [`Engine::open`] and [`Engine::embed`]; `Configuration` for unknown names.
pub fn bench(files: &ModelFiles, options: &BenchOptions, texts: &[&str]) -> Result<BenchReport> {
    let place = match &options.instructions {
        Some(name) => Place::Cpu(cpu(name)?),
        None => Place::find(options.device, options.dtype)?,
    };
    let settings = ModelSettings { dtype: options.dtype, workers: options.workers, ..ModelSettings::default() };
    let engine = match options.shape {
        Some(shape) => Engine::synthetic(files.tokenizer()?, shape, &settings, &place)?,
        None => Engine::on(files, &settings, &place)?,
    };
    let dtype = engine.context().dtype;
    let peak = match &place {
        Place::Cpu(cpu) => peak(*cpu, dtype, engine.workers()),
        Place::Devices(devices) => super::encoders::peak(devices, dtype)?,
    };
    let operations = engine.operations(texts)?;
    // The first round also touches all memory for the first time.
    let warm = texts.len().min(8 * engine.workers());
    engine.embed(Role::Document, &texts[..warm], &|| false)?;
    let (mut seconds, mut tokens) = (Vec::new(), 0);
    for _ in 0..options.rounds.max(1) {
        let start = Instant::now();
        tokens = engine.embed(Role::Document, texts, &|| false)?.tokens;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let gflops = operations / median / 1e9;
    Ok(BenchReport {
        model: engine.context().name.clone(),
        dtype,
        device: place.name(),
        workers: engine.workers(),
        texts: texts.len(),
        tokens,
        seconds,
        texts_per_second: texts.len() as f64 / median,
        tokens_per_second: tokens as f64 / median,
        gflops,
        peak_gflops: peak,
        share_of_peak: gflops / peak,
    })
}

/// What `workers` threads reach together, in 10⁹ operations per second.
fn peak(cpu: Cpu, dtype: Dtype, workers: usize) -> f64 {
    let format = match dtype {
        Dtype::Int8 => Format::Int8,
        Dtype::Bf16 => cpu.bf16(),
        Dtype::F32 | Dtype::F16 => Format::F32,
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(move || cpu.peak(format))).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).sum::<f64>() / 1e9
    })
}

/// Pieces of real prose with `tokens` tokens each, special tokens included, each another piece.
///
/// # Errors
/// `Configuration` when the text is too short for one piece.
pub fn pieces(tokenizer: &Tokenizer, text: &str, tokens: usize, count: usize) -> Result<Vec<String>> {
    let spans = tokenizer.spans(text)?;
    let wanted = tokens.saturating_sub(tokenizer.special_tokens()?).max(1);
    if spans.len() <= wanted {
        return Err(Error::new(ErrorKind::Configuration, "there is too little text for a piece of this length")
            .with("tokens", tokens)
            .with("available", spans.len()));
    }
    // Steps that do not divide the length of the text, so that pieces begin everywhere.
    let room = spans.len() - wanted;
    (0..count)
        .map(|i| {
            let from = i * 7919 % room;
            // A piece that begins or ends inside a word may have a token more when it stands alone.
            let mut last = from + wanted - 1;
            loop {
                let piece = &text[spans[from].0..spans[last].1];
                if last == from || tokenizer.encode(piece)?.len() <= tokens {
                    return Ok(piece.to_owned());
                }
                last -= 1;
            }
        })
        .collect()
}
