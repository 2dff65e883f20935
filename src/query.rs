//! `regrow query`: text → vector → the nearest chunks of a collection.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::embed::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::targets::{Condition, Filter, SearchRequest, field};
use crate::workspace::Workspace;

/// What is asked.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// The question.
    pub text: String,
    /// How many chunks.
    pub k: usize,
    /// Collection; the production name when absent.
    pub collection: Option<String>,
    /// Further conditions.
    pub filter: Filter,
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only documents that one of these principals may see.
    pub acl: Vec<String>,
    /// Search without the index.
    pub exact: bool,
}

/// A chunk that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Hit {
    /// Similarity (or distance, by the metric).
    pub score: f32,
    /// Chunk id.
    pub chunk_id: String,
    /// Document id.
    pub document_id: String,
    /// Title of the document.
    pub title: Option<String>,
    /// Position of the chunk in the document.
    pub ordinal: u64,
    /// The chunk's text.
    pub text: String,
    /// The document's metadata.
    pub metadata: Value,
}

/// Report of `regrow query`.
#[derive(Debug, Clone, Serialize)]
pub struct QueryReport {
    /// Always `query`.
    pub verb: &'static str,
    /// Always true.
    pub ok: bool,
    /// Always 0.
    pub exit_code: u8,
    /// The question.
    pub query: String,
    /// Physical name of the collection.
    pub collection: String,
    /// Snapshot it was restored from.
    pub snapshot: Option<String>,
    /// What was found, best first.
    pub hits: Vec<Hit>,
    /// Seconds of the search alone.
    pub search_seconds: f64,
}

/// Embeds the question and searches. Refused when the collection's vectors are another model's.
pub async fn query(workspace: &Workspace, options: &QueryOptions) -> Result<QueryReport> {
    let name = options.collection.as_deref().unwrap_or(workspace.pipeline.collection());
    let target = workspace.target()?;
    let info = target.describe(name).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such collection")
            .with("collection", name)
            .with("target", target.kind())
            .guidance("`regrow restore` makes it; `regrow status` shows what is there")
    })?;
    let recorded = info.marker.as_ref().map(|m| m.model_fingerprint);
    let engine = workspace.engine(&|context| context.fingerprint().ok() == recorded).await?;
    let here = engine.context().fingerprint()?;
    if let Some(marker) = &info.marker
        && marker.model_fingerprint != here
    {
        return Err(Error::new(ErrorKind::ModelMismatch, "the collection's vectors are another model's")
            .with("collection", &info.name)
            .with("recorded", marker.model_fingerprint.short())
            .with("here", here.short())
            .guidance("query with the model of its snapshot: `regrow show` names it"));
    }
    if info.dimension != engine.context().dimension as usize {
        return Err(Error::new(ErrorKind::ModelMismatch, "the collection has another dimension than the model")
            .with("collection", info.dimension)
            .with("model", engine.context().dimension));
    }
    let mut filter = options.filter.clone();
    if let Some(tenant) = &options.tenant {
        filter.all.extend(Filter::tenant(tenant).all);
    }
    if !options.acl.is_empty() {
        let values = options.acl.iter().map(|p| p.as_str().into()).collect();
        filter.all.push(Condition::AnyOf { field: field::ACL.to_owned(), values });
    }
    let text = options.text.clone();
    let embedded =
        tokio::task::spawn_blocking(move || engine.embed(Role::Query, &[text.as_str()], &|| false)).await??;
    let request = SearchRequest { vector: embedded.embeddings.data, limit: options.k, filter, exact: options.exact };
    let start = std::time::Instant::now();
    let found = target.search(&info.name, &request).await?;
    let search_seconds = start.elapsed().as_secs_f64();
    Ok(QueryReport {
        verb: "query",
        ok: true,
        exit_code: 0,
        query: options.text.clone(),
        collection: info.name,
        snapshot: info.marker.map(|m| m.snapshot),
        hits: found.into_iter().map(|point| hit(point.id.to_string(), point.score, point.payload)).collect(),
        search_seconds,
    })
}

fn hit(chunk_id: String, score: f32, mut payload: Map<String, Value>) -> Hit {
    let mut text = |name: &str| match payload.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    Hit {
        score,
        chunk_id,
        document_id: text(field::DOCUMENT_ID).unwrap_or_default(),
        title: text(field::TITLE),
        text: text(field::TEXT).unwrap_or_default(),
        ordinal: payload.get(field::ORDINAL).and_then(Value::as_u64).unwrap_or(0),
        metadata: payload.remove(field::METADATA).unwrap_or(Value::Object(Map::new())),
    }
}
