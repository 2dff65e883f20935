//! pgvector.
