//! The engine: tokenises texts, makes batches, and keeps every core busy with its own batch.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bench::Shape;
use super::device::{Device, Place};
use super::noop::Noop;
use super::pooling::pool;
use super::service::Client;
use super::{Embedder, Embeddings, TokenBatch, Tokenizer, encoders};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Digest;
use crate::model::{Architecture, Dtype, Metric, ModelContext, ModelFiles, Pooling};
use crate::pipeline::ModelSettings;

/// How often a waiting call looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Texts that one thread tokenises before it takes more.
const TOKENISE: usize = 16;
/// Most tokens in a batch, where the pipeline does not say.
const CPU_BATCH: usize = 2048;
/// The same on a device, which needs more at once to be busy.
const DEVICE_BATCH: usize = 32_768;
/// Texts of one call on the CPU.
const CPU_SLICE: usize = 1024;
/// Texts of one call for each device.
const DEVICE_SLICE: usize = 8192;
/// Part of a full batch below which batches are not divided further: so much keeps a worker busy.
const SMALLEST: usize = 8;
/// Most tokens of the no-op model.
const NOOP_TOKENS: u32 = 512;

/// What a text is, which decides its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A chunk of a document.
    Document,
    /// A search query.
    Query,
}

/// Vectors of some texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// One vector per text, in the order of the texts.
    pub embeddings: Embeddings,
    /// Tokens that went through the model, special tokens and prefixes included.
    pub tokens: u64,
}

/// A model ready to embed; share it in an `Arc`.
///
/// Each worker computes a batch on one thread, so that nothing is spread over threads but batches.
/// On the CPU they share the weights; elsewhere a worker is a device, and threads tokenise for it.
pub struct Engine {
    context: Arc<ModelContext>,
    tokenizer: Tokenizer,
    workers: Vec<Worker>,
    /// Threads that tokenise.
    threads: usize,
    place: String,
    /// Whether workers are devices.
    on_devices: bool,
    batch_tokens: usize,
    /// Computes the vectors elsewhere; workers then only tokenise.
    service: Option<Client>,
}

type Worker = Mutex<Box<dyn Embedder>>;

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("context", &self.context)
            .field("place", &self.place)
            .field("workers", &self.workers.len())
            .field("batch_tokens", &self.batch_tokens)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a model. Blocks for as long as reading the weights takes.
    ///
    /// # Errors
    /// `Configuration` for a device that is not there or a dtype that it does not compute in,
    /// `ModelMismatch` for files that do not fit together or a network that would not be computed rightly.
    pub fn open(files: &ModelFiles, settings: &ModelSettings) -> Result<Self> {
        Self::on(files, settings, &Place::find(settings.device, settings.dtype)?)
    }

    /// A model behind a service, with the key that its card asks for.
    ///
    /// # Errors
    /// `Configuration` when the card names no service, or one that needs a key and there is none.
    pub fn connect(files: &ModelFiles, settings: &ModelSettings, key: Option<String>) -> Result<Self> {
        if settings.dtype.is_some_and(|d| d != Dtype::F32) {
            return Err(Error::new(ErrorKind::Configuration, "a service computes in a number format of its own")
                .guidance("leave `dtype` out of the pipeline's [model]"));
        }
        let context = Arc::new(files.shortened(Dtype::F32, settings.dimension)?);
        let client = Client::open(&files.card, context.dimension, key)?;
        let embedders = (0..workers(settings.workers)).map(|_| Box::new(Noop::new(Arc::clone(&context))) as _);
        let place = format!("service at {}", files.card.service.as_ref().map_or("", |s| &s.url));
        let mut engine = Self::new(Arc::clone(&context), files.tokenizer()?, embedders.collect(), place, settings);
        engine.service = Some(client);
        Ok(engine)
    }

    /// The same in this place.
    pub(super) fn on(files: &ModelFiles, settings: &ModelSettings, place: &Place) -> Result<Self> {
        let tokenizer = files.tokenizer()?;
        let context = Arc::new(files.shortened(settings.dtype.unwrap_or_else(|| place.best()), settings.dimension)?);
        if context.pooling == Pooling::LastToken && tokenizer.special_tokens()? == 0 {
            return Err(Error::new(
                ErrorKind::ModelMismatch,
                "the tokenizer does not end texts with the model's end token",
            )
            .with("model", &context.name)
            .guidance("the last token's vector is the text's: take the tokenizer.json of the embedding model"));
        }
        let embedders = encoders::open(files, &context, workers(settings.workers), place)?;
        Ok(Self::placed(context, tokenizer, embedders, place, settings))
    }

    /// A network of a shape with random weights, for measuring; its vectors mean nothing.
    pub(super) fn synthetic(
        tokenizer: Tokenizer,
        shape: Shape,
        settings: &ModelSettings,
        place: &Place,
    ) -> Result<Self> {
        let dtype = settings.dtype.unwrap_or_else(|| place.best());
        let mut context = nameless(&tokenizer, shape.hidden as u32, dtype);
        context.name = shape.name.to_owned();
        context.architecture = Architecture::Bert;
        let context = Arc::new(context);
        let embedders = encoders::synthetic(shape, tokenizer.vocabulary(), &context, workers(settings.workers), place)?;
        Ok(Self::placed(context, tokenizer, embedders, place, settings))
    }

    /// A model without a network: unit vectors of `dimension` numbers that depend only on the
    /// token ids. Texts are tokenised for real.
    ///
    /// # Errors
    /// `Configuration` for dimension 0.
    pub fn noop(tokenizer: Tokenizer, dimension: u32) -> Result<Self> {
        if dimension == 0 {
            return Err(Error::new(ErrorKind::Configuration, "a vector has at least one number"));
        }
        let context = Arc::new(nameless(&tokenizer, dimension, Dtype::F32));
        let embedders = (0..workers(0)).map(|_| Box::new(Noop::new(Arc::clone(&context))) as Box<dyn Embedder>);
        let (place, settings) = ("no network".to_owned(), ModelSettings::default());
        Ok(Self::new(Arc::clone(&context), tokenizer, embedders.collect(), place, &settings))
    }

    fn placed(
        context: Arc<ModelContext>,
        tokenizer: Tokenizer,
        embedders: Vec<Box<dyn Embedder>>,
        place: &Place,
        settings: &ModelSettings,
    ) -> Self {
        let mut engine = Self::new(context, tokenizer, embedders, place.name(), settings);
        if let Place::Devices(_) = place {
            engine.batch_tokens = settings.batch_tokens.unwrap_or(DEVICE_BATCH).max(1);
            engine.threads = workers(settings.workers);
            engine.on_devices = true;
        }
        engine
    }

    fn new(
        context: Arc<ModelContext>,
        tokenizer: Tokenizer,
        embedders: Vec<Box<dyn Embedder>>,
        place: String,
        settings: &ModelSettings,
    ) -> Self {
        let (batch_tokens, threads) = (settings.batch_tokens.unwrap_or(CPU_BATCH).max(1), embedders.len());
        let workers = embedders.into_iter().map(Mutex::new).collect();
        Self { context, tokenizer, workers, threads, place, on_devices: false, batch_tokens, service: None }
    }

    /// Where vectors are computed: the CPU's instructions, devices, or a service.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Workers, each on its own batch.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Texts to hand over at once: enough to sort by length, few enough for progress and Ctrl-C.
    pub fn slice(&self) -> usize {
        if self.on_devices { DEVICE_SLICE * self.workers.len() } else { CPU_SLICE }
    }

    /// Calls to have under way at once: a device should find the next texts tokenised.
    pub fn calls(&self) -> usize {
        if self.on_devices { 2 } else { 1 }
    }

    /// Multiplications and additions that embedding the texts takes.
    pub(super) fn operations(&self, texts: &[&str]) -> Result<f64> {
        let Some(worker) = self.workers.first() else { return Ok(0.0) };
        let lengths = self.tokenise(Role::Document, texts, &|| false)?;
        let embedder = worker.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(lengths.iter().map(|ids| embedder.operations(ids.len())).sum())
    }

    /// What determines the vectors.
    pub fn context(&self) -> &ModelContext {
        &self.context
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Computes one vector per text. Blocks; `cancelled` is asked between batches, on the
    /// calling thread. Calls from several threads share the workers batch by batch.
    ///
    /// # Errors
    /// `Configuration` for a text with more tokens than the model takes (nothing is ever cut off;
    /// the error names its index, tokens and the limit), `Cancelled`, `ModelMismatch` for weights
    /// that compute no vector.
    pub fn embed(&self, role: Role, texts: &[&str], cancelled: &dyn Fn() -> bool) -> Result<Embedded> {
        let tokens = self.tokenise(role, texts, cancelled)?;
        self.check(&tokens)?;
        let total: usize = tokens.iter().map(Vec::len).sum();
        let dimension = self.context.dimension as usize;
        if let Some(service) = &self.service {
            let prefix = self.prefix(role);
            let texts: Vec<String> = texts.iter().map(|text| format!("{prefix}{text}")).collect();
            let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
            let received = service.embed(&texts, &lengths, cancelled)?;
            let mut data = Vec::with_capacity(received.len());
            for row in received.chunks_exact(dimension) {
                pool(std::iter::once(row), dimension, Pooling::Cls, self.context.normalize, &mut data)?;
            }
            return Ok(Embedded { embeddings: Embeddings { dimension, data }, tokens: total as u64 });
        }
        let batches = Batches::new(&tokens, self.batch_tokens, self.workers.len());
        let mut data = vec![0.0; texts.len() * dimension];
        self.run(
            (self.workers.len(), batches.ranges.len()),
            cancelled,
            |worker, i| {
                let (batch, _) = batches.get(i, &tokens);
                // A panic in an earlier batch leaves only scratch memory behind.
                let embeddings = self.workers[worker].lock().unwrap_or_else(PoisonError::into_inner).embed(&batch)?;
                if embeddings.data.len() != batch.lengths.len() * dimension {
                    return Err(Error::new(ErrorKind::Unexpected, "the encoder returned vectors of another size"));
                }
                Ok(embeddings)
            },
            |i, embeddings: Embeddings| {
                let (_, texts) = batches.get(i, &[]);
                for (row, text) in embeddings.rows().zip(texts) {
                    data[text * dimension..(text + 1) * dimension].copy_from_slice(row);
                }
            },
        )?;
        Ok(Embedded { embeddings: Embeddings { dimension, data }, tokens: total as u64 })
    }

    /// What so many tokens cost at the model's service, in US dollars, where its card says.
    pub fn price(&self, tokens: u64) -> Option<f64> {
        self.service.as_ref().and_then(|s| s.price(tokens))
    }

    fn prefix(&self, role: Role) -> &str {
        match role {
            Role::Document => &self.context.document_prefix,
            Role::Query => &self.context.query_prefix,
        }
    }

    fn tokenise(&self, role: Role, texts: &[&str], cancelled: &dyn Fn() -> bool) -> Result<Vec<Vec<u32>>> {
        let prefix = self.prefix(role);
        let blocks: Vec<&[&str]> = texts.chunks(TOKENISE).collect();
        let mut tokens = vec![Vec::new(); texts.len()];
        self.run(
            (self.threads, blocks.len()),
            cancelled,
            |_, i| {
                blocks[i]
                    .iter()
                    .map(|text| match prefix {
                        "" => self.tokenizer.encode(text),
                        _ => self.tokenizer.encode(&format!("{prefix}{text}")),
                    })
                    .collect::<Result<Vec<_>>>()
            },
            |i, ids| tokens[i * TOKENISE..].iter_mut().zip(ids).for_each(|(place, ids)| *place = ids),
        )?;
        Ok(tokens)
    }

    fn check(&self, tokens: &[Vec<u32>]) -> Result<()> {
        let limit = self.context.max_tokens as usize;
        match tokens.iter().enumerate().find(|(_, ids)| ids.len() > limit || ids.is_empty()) {
            Some((index, ids)) if ids.is_empty() => {
                Err(Error::new(ErrorKind::Configuration, "a text has no tokens, so it has no vector")
                    .with("index", index))
            }
            Some((index, ids)) => {
                Err(Error::new(ErrorKind::Configuration, "a text has more tokens than the model takes")
                    .with("index", index)
                    .with("tokens", ids.len())
                    .with("limit", limit)
                    .guidance("make the chunks smaller (`chunking.size`) or use a model with a longer context"))
            }
            None => Ok(()),
        }
    }

    /// Runs jobs on so many threads, each of which says its number with the job's, and hands results to
    /// `done` on the calling thread. Stops at the first error, or when cancelled.
    fn run<T: Send>(
        &self,
        (threads, jobs): (usize, usize),
        cancelled: &dyn Fn() -> bool,
        job: impl Fn(usize, usize) -> Result<T> + Sync,
        mut done: impl FnMut(usize, T),
    ) -> Result<()> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (send, results) = mpsc::channel();
            for worker in 0..threads.min(jobs) {
                let (send, next, stop, job) = (send.clone(), &next, &stop, &job);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= jobs {
                            break;
                        }
                        // The panic itself has been reported by the runtime's hook.
                        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(worker, i)));
                        let result = result.unwrap_or_else(|_| {
                            Err(Error::new(ErrorKind::Unexpected, "a worker panicked")
                                .guidance("this is a defect in regrow: please report it with the log"))
                        });
                        if send.send((i, result)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            let outcome = loop {
                if cancelled() {
                    break Err(Error::new(ErrorKind::Cancelled, "stopped while embedding")
                        .guidance("run the same command again: it continues where it stopped"));
                }
                match results.recv_timeout(LOOK) {
                    Ok((i, Ok(result))) => done(i, result),
                    Ok((_, Err(e))) => break Err(e),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                }
            };
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }
}

/// What embedding would use for a setting: the CPU's instructions or devices, and the number format
/// of a first snapshot whose pipeline names none.
///
/// # Errors
/// `Configuration` for a device that this build or this machine does not have.
pub fn place_of(device: Device, dtype: Option<Dtype>) -> Result<(String, Dtype)> {
    let place = Place::find(device, dtype)?;
    Ok((place.name(), dtype.unwrap_or_else(|| place.best())))
}

/// The context of a model that has no files but a tokenizer.
fn nameless(tokenizer: &Tokenizer, dimension: u32, dtype: Dtype) -> ModelContext {
    let weights = Digest::of(format!("regrow no-op model 1, dimension {dimension}").as_bytes());
    ModelContext {
        name: "noop".to_owned(),
        weights,
        tokenizer: tokenizer.digest(),
        config: weights,
        architecture: Architecture::Noop,
        pooling: Pooling::Mean,
        normalize: true,
        query_prefix: String::new(),
        document_prefix: String::new(),
        max_tokens: NOOP_TOKENS,
        dtype,
        dimension,
        metric: Metric::Cosine,
    }
}

/// The number of workers for a setting, where 0 means one per core.
fn workers(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    }
}

/// Texts in order of length, longest first, cut into batches of similar work.
struct Batches {
    order: Vec<usize>,
    ranges: Vec<Range<usize>>,
}

impl Batches {
    fn new(tokens: &[Vec<u32>], budget: usize, workers: usize) -> Self {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(tokens[*i].len()));
        // Batches shrink with what is left, so that all workers come to the end together.
        let mut left: usize = tokens.iter().map(Vec::len).sum();
        let share = |left: usize| budget.min(left.div_ceil(2 * workers.max(1)).max(budget / SMALLEST));
        let mut most = share(left);
        let mut ranges = Vec::new();
        let (mut start, mut used) = (0, 0);
        for (place, text) in order.iter().enumerate() {
            let length = tokens[*text].len();
            if place > start && used + length > most {
                ranges.push(start..place);
                left -= used;
                (start, used, most) = (place, 0, share(left));
            }
            used += length;
        }
        if start < order.len() {
            ranges.push(start..order.len());
        }
        Self { order, ranges }
    }

    /// The tokens of batch `i` and the indices of its texts.
    fn get(&self, i: usize, tokens: &[Vec<u32>]) -> (TokenBatch, &[usize]) {
        let texts = &self.order[self.ranges[i].clone()];
        let mut batch = TokenBatch::default();
        for ids in texts.iter().filter_map(|t| tokens.get(*t)) {
            batch.ids.extend_from_slice(ids);
            batch.lengths.push(ids.len() as u32);
        }
        (batch, texts)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
#[cfg(test)]
pub(in crate::embed) use tests::floats;
