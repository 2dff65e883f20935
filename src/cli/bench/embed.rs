//! `regrow bench embed`.

use std::path::Path;

use regrow::embed::bench::{BenchOptions, BenchReport, Shape, bench, instructions, pieces};
use regrow::embed::{Device, Tokenizer, place_of};
use regrow::model::{Dtype, ModelCard, ModelFiles};
use regrow::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::super::args::BenchEmbedArgs;
use super::super::format;
use super::super::printer::Printer;
use super::super::settings::Settings;

/// Prose to measure with: what this project says of itself.
const PROSE: &str = concat!(
    include_str!("../../../README.md"),
    include_str!("../../../ARCHITECTURE.md"),
    include_str!("../../../CONTRIBUTING.md"),
    include_str!("../../../docs/format.md"),
);

/// Lengths that are measured when none are named: short, middle and long texts.
const LENGTHS: [usize; 3] = [32, 120, 512];

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: BenchEmbedArgs) -> Result<u8> {
    let card = ModelCard::find(&args.model)?;
    let files = settings.models().get(&card, args.source.as_deref(), &settings.events).await?;
    settings.end_progress();
    let device = settings.global.device.unwrap_or_default();
    let reports = tokio::task::spawn_blocking(move || all(&files, &args, device)).await??;
    let report = json!({ "verb": "bench", "ok": true, "exit_code": 0, "embed": reports });
    printer.report(&report, || table(printer, &reports))?;
    Ok(0)
}

fn all(files: &ModelFiles, args: &BenchEmbedArgs, device: Device) -> Result<Vec<BenchReport>> {
    let tokenizer = files.tokenizer()?;
    let shapes = match args.shape.as_slice() {
        [] => vec![None],
        names => names.iter().map(|n| Shape::find(n).map(Some)).collect::<Result<_>>()?,
    };
    let dtypes = match args.dtype.as_slice() {
        [] if on_cpu(device)? => Dtype::CPU.to_vec(),
        [] => Dtype::GPU.to_vec(),
        names => names.iter().map(|n| dtype(n)).collect::<Result<_>>()?,
    };
    let mut reports = Vec::new();
    for shape in shapes {
        let most = if shape.is_some() { 512 } else { files.card.max_tokens as usize };
        for texts in texts(&tokenizer, args, most)? {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            for dtype in &dtypes {
                let options = BenchOptions {
                    shape,
                    dtype: Some(*dtype),
                    device,
                    instructions: args.instructions.clone(),
                    workers: args.workers,
                    rounds: args.rounds,
                };
                reports.push(bench(files, &options, &texts)?);
            }
        }
    }
    Ok(reports)
}

fn on_cpu(device: Device) -> Result<bool> {
    let (place, _) = place_of(device, None)?;
    Ok(instructions().contains(&place.as_str()))
}

fn dtype(name: &str) -> Result<Dtype> {
    Dtype::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "there is no such number format")
            .with("dtype", name)
            .guidance(format!("known are {}", Dtype::ALL.map(Dtype::name).join(", ")))
    })
}

/// Sets of texts, each measured on its own.
fn texts(tokenizer: &Tokenizer, args: &BenchEmbedArgs, most: usize) -> Result<Vec<Vec<String>>> {
    if let Some(path) = &args.input {
        return Ok(vec![lines(path)?]);
    }
    let mut lengths = if args.tokens.is_empty() { LENGTHS.to_vec() } else { args.tokens.clone() };
    if args.tokens.is_empty() {
        lengths.iter_mut().for_each(|l| *l = most.min(*l));
    }
    lengths.into_iter().map(|tokens| pieces(tokenizer, PROSE, tokens, args.texts.max(1))).collect()
}

/// The texts of a file.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::from(e).with("file", path.display()))?;
    let mut texts = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |message: &str| {
            Error::new(ErrorKind::Configuration, message.to_owned())
                .with("file", path.display())
                .with("line", i + 1)
                .guidance("each line is a JSON string, or an object with the key `text`")
        };
        let value: Value = serde_json::from_str(line).map_err(|e| bad("this line is not JSON").because(e))?;
        match value.as_str().or_else(|| value.get("text").and_then(Value::as_str)) {
            Some(text) => texts.push(text.to_owned()),
            None => return Err(bad("this line has no text")),
        }
    }
    if texts.is_empty() {
        return Err(Error::new(ErrorKind::Configuration, "the file has no texts").with("file", path.display()));
    }
    Ok(texts)
}

fn table(printer: &Printer, reports: &[BenchReport]) -> String {
    let header = ["model", "dtype", "device", "texts", "tokens/text", "texts/s", "tokens/s", "GFLOP/s", "peak"];
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|r| {
            vec![
                r.model.clone(),
                r.dtype.name().to_owned(),
                r.device.clone(),
                format::count(r.texts as u64),
                format!("{:.0}", r.tokens as f64 / r.texts as f64),
                format!("{:.1}", r.texts_per_second),
                format::count(r.tokens_per_second as u64),
                format!("{:.0}", r.gflops),
                format!("{:.0} %", 100.0 * r.share_of_peak),
            ]
        })
        .collect();
    let workers = reports.first().map_or(0, |r| r.workers);
    let table = printer.table(&header, &[3, 4, 5, 6, 7, 8], &rows);
    format!("{table}\n{workers} workers; tokenising included; peak is what they reach in a loop that only multiplies\n")
}
