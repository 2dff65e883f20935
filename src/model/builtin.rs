//! The cards that come with regrow: every `models/*.toml`, as a test checks.

/// File name and text of each card.
pub(super) const BUILTIN: &[(&str, &str)] = &[
    ("Qwen3-Embedding-0.6B.toml", include_str!("../../models/Qwen3-Embedding-0.6B.toml")),
    ("Qwen3-Embedding-4B.toml", include_str!("../../models/Qwen3-Embedding-4B.toml")),
    ("Qwen3-Embedding-8B.toml", include_str!("../../models/Qwen3-Embedding-8B.toml")),
    ("all-MiniLM-L6-v2.toml", include_str!("../../models/all-MiniLM-L6-v2.toml")),
    ("all-mpnet-base-v2.toml", include_str!("../../models/all-mpnet-base-v2.toml")),
    ("bge-base-en-v1.5.toml", include_str!("../../models/bge-base-en-v1.5.toml")),
    ("bge-large-en-v1.5.toml", include_str!("../../models/bge-large-en-v1.5.toml")),
    ("bge-m3.toml", include_str!("../../models/bge-m3.toml")),
    ("bge-small-en-v1.5.toml", include_str!("../../models/bge-small-en-v1.5.toml")),
    ("e5-base-v2.toml", include_str!("../../models/e5-base-v2.toml")),
    ("e5-large-v2.toml", include_str!("../../models/e5-large-v2.toml")),
    ("e5-small-v2.toml", include_str!("../../models/e5-small-v2.toml")),
    ("gte-base-en-v1.5.toml", include_str!("../../models/gte-base-en-v1.5.toml")),
    ("gte-base.toml", include_str!("../../models/gte-base.toml")),
    ("gte-large-en-v1.5.toml", include_str!("../../models/gte-large-en-v1.5.toml")),
    ("gte-large.toml", include_str!("../../models/gte-large.toml")),
    ("gte-modernbert-base.toml", include_str!("../../models/gte-modernbert-base.toml")),
    ("gte-small.toml", include_str!("../../models/gte-small.toml")),
    ("modernbert-embed-base.toml", include_str!("../../models/modernbert-embed-base.toml")),
    ("msmarco-distilbert-base-tas-b.toml", include_str!("../../models/msmarco-distilbert-base-tas-b.toml")),
    ("multilingual-e5-base.toml", include_str!("../../models/multilingual-e5-base.toml")),
    ("multilingual-e5-large.toml", include_str!("../../models/multilingual-e5-large.toml")),
    ("multilingual-e5-small.toml", include_str!("../../models/multilingual-e5-small.toml")),
    ("nomic-embed-text-v1.5.toml", include_str!("../../models/nomic-embed-text-v1.5.toml")),
];
