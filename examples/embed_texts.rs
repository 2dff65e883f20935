//! Embeds a question and a few texts with a model card, and prints how near the texts are.
//!
//!     cargo run --release --example embed_texts -- CACHE_DIR [MODEL_DIR]
//!
//! The model's files are taken from MODEL_DIR, or fetched from the card's sources into CACHE_DIR.

use std::path::PathBuf;

use regrow::Result;
use regrow::embed::{Engine, Role};
use regrow::event::Events;
use regrow::model::{FetchOptions, ModelCard, ModelStore};
use regrow::pipeline::ModelSettings;

const TEXTS: [&str; 3] = [
    "An HNSW index answers a search by walking a graph of near neighbours.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "A backup that was never restored is only a hope.",
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(cache) = arguments.next() else {
        eprintln!("usage: embed_texts CACHE_DIR [MODEL_DIR]");
        return Ok(());
    };
    let directory = arguments.next();

    let card = ModelCard::find("all-MiniLM-L6-v2")?;
    let store = ModelStore::new(PathBuf::from(cache), FetchOptions::default());
    let runtime = tokio::runtime::Runtime::new()?;
    let files = runtime.block_on(store.get(&card, directory.as_deref(), &Events::silent()))?;

    // Opening and embedding block; a task would do both in `spawn_blocking`.
    let engine = Engine::open(&files, &ModelSettings::default())?;
    println!("{}: {}", card.name, engine.context().fingerprint()?.short());
    let question = engine.embed(Role::Query, &["How do I know that my backup works?"], &|| false)?;
    let texts = engine.embed(Role::Document, &TEXTS, &|| false)?;

    // The vectors have length 1, so the dot product is the cosine.
    for (text, vector) in TEXTS.iter().zip(texts.embeddings.rows()) {
        let cosine: f32 = question.embeddings.data.iter().zip(vector).map(|(a, b)| a * b).sum();
        println!("{cosine:6.3}  {text}");
    }
    println!("{} tokens", question.tokens + texts.tokens);
    Ok(())
}
