use std::cell::Cell;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::embed::kernels::Cpu;
use crate::model::ModelCard;

/// A tokenizer of whole words, for tests that need no model: `[CLS] words [SEP]`.
fn word_tokenizer() -> Tokenizer {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "corpus", "is", "backup", "a", "b"];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), serde_json::json!(i))).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

fn never() -> bool {
    false
}

/// The real model, or nothing where its files were not given.
fn mini(settings: &ModelSettings) -> Option<Engine> {
    let directory = crate::testing::model()?;
    let files = ModelFiles::open(&ModelCard::find("all-MiniLM-L6-v2").unwrap(), Path::new(&directory)).unwrap();
    Some(Engine::open(&files, settings).unwrap())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn differ(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn noop_is_deterministic_and_of_length_one() {
    let engine = Engine::noop(word_tokenizer(), 24).unwrap();
    let texts = ["the corpus", "a", "", "the corpus", "b b b b b b b b"];
    let first = engine.embed(Role::Document, &texts, &never).unwrap();
    assert_eq!(first, engine.embed(Role::Document, &texts, &never).unwrap());
    // Truncation and padding of the tokenizer's file are off.
    assert_eq!(first.tokens, 4 + 3 + 2 + 4 + 10);
    let rows: Vec<&[f32]> = first.embeddings.rows().collect();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0], rows[3]);
    assert_ne!(rows[0], rows[1]);
    for row in rows {
        assert!((cosine(row, row) - 1.0).abs() < 1e-9 && (differ(row, &[0.0; 24]) <= 1.0));
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert_eq!(engine.context().dimension, 24);
    assert_ne!(
        engine.context().fingerprint().unwrap(),
        Engine::noop(word_tokenizer(), 25).unwrap().context().fingerprint().unwrap()
    );
    assert!(Engine::noop(word_tokenizer(), 0).is_err());
}

#[test]
fn an_over_long_text_is_an_error_that_names_it() {
    let engine = Engine::noop(word_tokenizer(), 8).unwrap();
    let fits = "a ".repeat(NOOP_TOKENS as usize - 2);
    let long = "a ".repeat(NOOP_TOKENS as usize - 1);
    assert_eq!(engine.embed(Role::Query, &[&fits], &never).unwrap().tokens, u64::from(NOOP_TOKENS));
    let e = engine.embed(Role::Document, &["a", &fits, &long], &never).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration);
    assert_eq!(
        (e.context_value("index"), e.context_value("tokens"), e.context_value("limit")),
        (Some("2"), Some("513"), Some("512"))
    );
}

#[test]
fn nothing_in_nothing_out() {
    let engine = Engine::noop(word_tokenizer(), 8).unwrap();
    let none = engine.embed(Role::Document, &[], &never).unwrap();
    assert_eq!((none.tokens, none.embeddings.data.len()), (0, 0));
}

#[test]
fn a_cancelled_call_stops() {
    let engine = Engine::noop(word_tokenizer(), 8).unwrap();
    let texts = vec!["the corpus is the backup"; 5000];
    let asked = Cell::new(0);
    let e = engine
        .embed(Role::Document, &texts, &|| {
            asked.set(asked.get() + 1);
            asked.get() > 20
        })
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
}

proptest! {
    #[test]
    fn batches_hold_every_text_once_within_the_budget(
        lengths in prop::collection::vec(1_usize..300, 0..60), budget in 1_usize..600, workers in 1_usize..9,
    ) {
        let tokens: Vec<Vec<u32>> = lengths.iter().map(|l| vec![7; *l]).collect();
        let batches = Batches::new(&tokens, budget, workers);
        let mut seen = vec![0; tokens.len()];
        for i in 0..batches.ranges.len() {
            let (batch, texts) = batches.get(i, &tokens);
            prop_assert_eq!(batch.texts().map(<[u32]>::len).collect::<Vec<_>>(), texts.iter().map(|t| lengths[*t]).collect::<Vec<_>>());
            prop_assert!(texts.len() == 1 || batch.ids.len() <= budget);
            prop_assert!(!texts.is_empty());
            texts.iter().for_each(|t| seen[*t] += 1);
        }
        prop_assert!(seen.iter().all(|n| *n == 1));
    }

    /// Taken in order by whoever is free, batches leave no worker with much more than its share.
    #[test]
    fn batches_end_together(lengths in prop::collection::vec(1_usize..300, 1..200), workers in 1_usize..9) {
        let tokens: Vec<Vec<u32>> = lengths.iter().map(|l| vec![7; *l]).collect();
        let batches = Batches::new(&tokens, 2048, workers);
        let mut busy = vec![0_usize; workers];
        for i in 0..batches.ranges.len() {
            let free = busy.iter_mut().min().unwrap();
            *free += batches.get(i, &tokens).0.ids.len();
        }
        let (most, total) = (*busy.iter().max().unwrap(), lengths.iter().sum::<usize>());
        prop_assert!(most <= total.div_ceil(workers) + SMALLEST + 300, "{busy:?}");
    }

    #[test]
    fn order_and_company_never_matter(order in Just((0..40_usize).collect::<Vec<_>>()).prop_shuffle(), n in 1_usize..40) {
        let engine = Engine::noop(word_tokenizer(), 8).unwrap();
        let texts: Vec<String> = (0..40).map(|i| "the corpus a b ".repeat(i % 7) + &"b ".repeat(i)).collect();
        let all: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expected = engine.embed(Role::Document, &all, &never).unwrap().embeddings;
        let some: Vec<&str> = order[..n].iter().map(|i| all[*i]).collect();
        let got = engine.embed(Role::Document, &some, &never).unwrap().embeddings;
        for (row, i) in got.rows().zip(&order) {
            prop_assert_eq!(row, expected.rows().nth(*i).unwrap());
        }
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    texts: Vec<GoldenText>,
}

#[derive(serde::Deserialize)]
struct GoldenText {
    text: String,
    tokens: u64,
    vector: String,
}

/// Little-endian 32-bit floats in base64.
pub(in crate::embed) fn floats(base64: &str) -> Vec<f32> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits: Vec<u8> = base64.bytes().filter(|c| *c != b'=').map(value).collect();
    let bytes: Vec<u8> = bits
        .chunks(4)
        .flat_map(|c| {
            let n = c.iter().fold(0_u32, |n, v| n << 6 | u32::from(*v)) << (6 * (4 - c.len()));
            n.to_be_bytes()[1..c.len()].to_vec()
        })
        .collect();
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn golden_vectors_of_the_reference_implementation() {
    let Some(engine) = mini(&ModelSettings { dtype: Some(Dtype::F32), ..ModelSettings::default() }) else { return };
    let golden: Golden = serde_json::from_str(include_str!("../../models/golden/all-MiniLM-L6-v2.json")).unwrap();
    assert!(golden.texts.len() >= 12);
    for t in &golden.texts {
        let one = engine.embed(Role::Document, &[&t.text], &never).unwrap();
        assert_eq!(one.tokens, t.tokens, "{:?}", t.text);
        let expected = floats(&t.vector);
        let cosine = cosine(&one.embeddings.data, &expected);
        assert!(cosine >= 0.999_999, "{cosine} {:?}", t.text);
        assert!(differ(&one.embeddings.data, &expected) < 1e-5, "{:?}", t.text);
    }
}

#[test]
fn a_batch_is_its_texts_one_by_one() {
    let settings =
        ModelSettings { batch_tokens: Some(300), workers: 3, dtype: Some(Dtype::F32), ..ModelSettings::default() };
    let Some(engine) = mini(&settings) else { return };
    let longest = "corpus ".repeat(254);
    let texts = ["", "a", "how to restore a collection", &longest, "fn main() {}", "naïve café", &longest[..500], "a"];
    let single: Vec<Vec<f32>> =
        texts.iter().map(|t| engine.embed(Role::Document, &[t], &never).unwrap().embeddings.data).collect();
    let batch = engine.embed(Role::Document, &texts, &never).unwrap();
    let mut reversed = texts;
    reversed.reverse();
    let backwards = engine.embed(Role::Query, &reversed, &never).unwrap();
    for (i, one) in single.iter().enumerate() {
        assert!(differ(one, batch.embeddings.rows().nth(i).unwrap()) < 1e-5, "{i}");
        assert!(differ(one, backwards.embeddings.rows().nth(texts.len() - 1 - i).unwrap()) < 1e-5, "{i}");
    }
    let e = engine.embed(Role::Document, &["corpus ".repeat(255).as_str()], &never).unwrap_err();
    assert_eq!((e.kind(), e.context_value("tokens")), (ErrorKind::Configuration, Some("257")));
}

#[test]
fn a_dtype_that_is_not_computed_is_refused() {
    let Some(directory) = crate::testing::model() else { return };
    let files = ModelFiles::open(&ModelCard::find("minilm").unwrap(), Path::new(&directory)).unwrap();
    let e = Engine::open(&files, &ModelSettings { dtype: Some(Dtype::F16), ..ModelSettings::default() }).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Configuration);
}

/// The real model in each precision on each path, against the reference implementation's vectors.
#[test]
fn precisions_lose_no_more_than_they_say() {
    let Some(directory) = crate::testing::model() else { return };
    let files = ModelFiles::open(&ModelCard::find("minilm").unwrap(), Path::new(&directory)).unwrap();
    let golden: Golden = serde_json::from_str(include_str!("../../models/golden/all-MiniLM-L6-v2.json")).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(|t| t.text.as_str()).collect();
    for (dtype, least) in [(Dtype::F32, 0.999_99), (Dtype::Bf16, 0.999_9), (Dtype::Int8, 0.98)] {
        for cpu in Cpu::all() {
            let settings = ModelSettings { dtype: Some(dtype), ..ModelSettings::default() };
            let engine = Engine::on(&files, &settings, &Place::Cpu(cpu)).unwrap();
            let all = engine.embed(Role::Document, &texts, &never).unwrap();
            let lowest = all
                .embeddings
                .rows()
                .zip(&golden.texts)
                .map(|(a, t)| cosine(a, &floats(&t.vector)))
                .fold(1.0, f64::min);
            assert!(lowest > least, "{dtype:?} on {}: {lowest}", cpu.name());
            // Alone, in company and in another order: the very same numbers come out.
            for (i, text) in texts.iter().enumerate().step_by(5) {
                let one = engine.embed(Role::Document, &[text], &never).unwrap();
                let differs = differ(&one.embeddings.data, all.embeddings.rows().nth(i).unwrap());
                // The portable path leaves the order of sums to a library.
                let most = if cpu.name() == "portable" { 1e-6 } else { 0.0 };
                assert!(differs <= most, "{dtype:?} on {}: {differs}", cpu.name());
            }
        }
    }
}

/// Candle's CPU stands for its GPUs: the same operations on other hardware.
#[test]
fn a_device_loses_no_more_than_it_says() {
    let Some(directory) = crate::testing::model() else { return };
    let files = ModelFiles::open(&ModelCard::find("minilm").unwrap(), Path::new(&directory)).unwrap();
    let golden: Golden = serde_json::from_str(include_str!("../../models/golden/all-MiniLM-L6-v2.json")).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(|t| t.text.as_str()).collect();
    for (dtype, least) in [(Dtype::F32, 0.999_99), (Dtype::F16, 0.999_99), (Dtype::Bf16, 0.999_9)] {
        let settings = ModelSettings { dtype: Some(dtype), ..ModelSettings::default() };
        let engine = Engine::on(&files, &settings, &Place::Devices(vec![candle_core::Device::Cpu])).unwrap();
        let all = engine.embed(Role::Document, &texts, &never).unwrap();
        let rows = all.embeddings.rows().zip(&golden.texts);
        let lowest = rows.map(|(a, t)| cosine(a, &floats(&t.vector))).fold(1.0, f64::min);
        assert!(lowest > least, "{dtype:?}: {lowest}");
    }
}
