//! Texts per second of regrow's encoder against candle's own BERT example, in one run.
//!
//!     REGROW_TEST_MODEL=MODEL_DIR cargo bench --bench embed -- CORPUS_DIR [TEXTS] [ROUNDS]
//!
//! The texts are cut from the `.md` files below CORPUS_DIR, 20 to 256 tokens each. The two take
//! turns (A B A B …), tokenisation is charged to both, and the median of the rounds' ratios is
//! what counts: other load on the machine then meets both alike. Where the system tells, the
//! seconds of processor time are printed too: they depend less on what else runs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use regrow::embed::{Engine, Role, Tokenizer};
use regrow::model::{Dtype, ModelCard, ModelFiles};
use regrow::pipeline::ModelSettings;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Texts of one padded batch of the example.
const EXAMPLE_BATCH: usize = 32;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let (Some(model), Some(corpus)) = (std::env::var_os("REGROW_TEST_MODEL"), args.next()) else {
        println!("skipped: set REGROW_TEST_MODEL to the model's directory and give a directory of Markdown files");
        return Ok(());
    };
    let count: usize = args.next().map_or(Ok(300), |n| n.parse())?;
    let rounds: usize = args.next().map_or(Ok(5), |n| n.parse())?;

    let files = ModelFiles::open(&ModelCard::find("all-MiniLM-L6-v2")?, Path::new(&model))?;
    let example = Example::open(Path::new(&model))?;
    let texts = texts(&files.tokenizer()?, Path::new(&corpus), count)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let reference = example.embed(&texts)?;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        compare(&files, dtype, &example, &reference, &texts, rounds)?;
    }
    Ok(())
}

fn compare(
    files: &ModelFiles,
    dtype: Dtype,
    example: &Example,
    reference: &[Vec<f32>],
    texts: &[&str],
    rounds: usize,
) -> Result<(), Failure> {
    let engine = Engine::open(files, &ModelSettings { dtype: Some(dtype), ..ModelSettings::default() })?;
    let warm = engine.embed(Role::Document, texts, &|| false)?;
    let worst = warm
        .embeddings
        .rows()
        .zip(reference)
        .map(|(a, b)| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>())
        .fold(1.0, f32::min);
    println!("{}: {} texts, {} tokens; worst cosine to the example {worst:.6}", dtype.name(), texts.len(), warm.tokens);
    assert!(worst > 0.9999, "the two disagree");

    let (mut ratios, mut work) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let ours = measure(|| engine.embed(Role::Document, texts, &|| false).map(drop).map_err(Into::into))?;
        let theirs = measure(|| example.embed(texts).map(drop))?;
        ratios.push(theirs.wall / ours.wall);
        work.push(theirs.cpu / ours.cpu);
        let show = |name: &str, m: &Measured| {
            let (texts, tokens) = (texts.len() as f64, warm.tokens as f64);
            format!("{name} {:.1} texts/s {:.0} tokens/s {:.2} CPU s", texts / m.wall, tokens / m.wall, m.cpu)
        };
        println!(
            "round {round}: {} | {} | {:.2}x",
            show("regrow", &ours),
            show("candle example", &theirs),
            theirs.wall / ours.wall
        );
    }
    ratios.sort_by(f64::total_cmp);
    work.sort_by(f64::total_cmp);
    println!("median ratio {:.2}x (processor time {:.2}x)", ratios[rounds / 2], work[rounds / 2]);
    Ok(())
}

struct Measured {
    wall: f64,
    cpu: f64,
}

fn measure(f: impl FnOnce() -> Result<(), Failure>) -> Result<Measured, Failure> {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    f()?;
    Ok(Measured { wall: started.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu })
}

/// Processor time of this process in user and system mode, or not a number where it is not told.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

/// Pieces of real Markdown with lengths spread over 20 to 256 tokens.
fn texts(tokenizer: &Tokenizer, corpus: &Path, count: usize) -> Result<Vec<String>, Failure> {
    let mut paths = Vec::new();
    walk(corpus, 3, &mut paths);
    paths.sort();
    let mut texts = Vec::new();
    for path in &paths {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let spans = tokenizer.spans(&text)?;
        let mut at = 0;
        // A few pieces of each file, of lengths that a fixed sequence decides.
        for _ in 0..3 {
            let wanted = 18 + (texts.len() * 97) % 237;
            let Some(piece) = spans.get(at..at + wanted) else { break };
            let piece = &text[piece[0].0..piece[wanted - 1].1];
            at += wanted;
            let tokens = tokenizer.encode(piece)?.len();
            if (20..=256).contains(&tokens) {
                texts.push(piece.to_owned());
            }
            if texts.len() == count {
                return Ok(texts);
            }
        }
    }
    Ok(texts)
}

fn walk(directory: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            walk(&path, depth - 1, out);
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("md")) {
            out.push(path);
        }
    }
}

/// What candle's BERT example does: padded batches, an attention mask, its default threads.
struct Example {
    model: BertModel,
    tokenizer: tokenizers::Tokenizer,
}

impl Example {
    fn open(directory: &Path) -> Result<Self, Failure> {
        let config: Config = serde_json::from_slice(&std::fs::read(directory.join("config.json"))?)?;
        let weights = std::fs::read(directory.join("model.safetensors"))?;
        let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        let mut tokenizer = tokenizers::Tokenizer::from_file(directory.join("tokenizer.json"))?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::BatchLongest,
            ..Default::default()
        }));
        Ok(Self { model: BertModel::load(vb, &config)?, tokenizer })
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut out = Vec::new();
        for batch in texts.chunks(EXAMPLE_BATCH) {
            let encodings = self.tokenizer.encode_batch(batch.to_vec(), true)?;
            let stack = |f: &dyn Fn(&tokenizers::Encoding) -> Vec<u32>| {
                let rows = encodings.iter().map(|e| Tensor::new(f(e), &Device::Cpu)).collect::<Result<Vec<_>, _>>()?;
                Tensor::stack(&rows, 0)
            };
            let ids = stack(&|e| e.get_ids().to_vec())?;
            let mask = stack(&|e| e.get_attention_mask().to_vec())?;
            let rows = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
            let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
            let mean = rows.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
            let unit = mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?;
            out.extend(unit.to_vec2::<f32>()?);
        }
        Ok(out)
    }
}
