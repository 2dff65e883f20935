//! The repository: snapshots, vector sets and drill records on an object store.
//!
//! Write order is data, then index, then commit record, always with `PutMode::Create`: a reader never
//! sees half a snapshot, and nothing that was committed is ever overwritten.

mod inventory;
mod layout;
mod manifest;
mod reliable;
mod store;
mod verify;

pub use inventory::{DocumentRow, InventoryReader, InventoryWriter, payload_digest};
pub use layout::{FORMAT_VERSION, bucket_of};
pub use manifest::{
    Buckets, Captured, CorpusRecord, Counts, Manifest, ObjectRef, SkippedDocument, SnapshotSummary, TargetRecord,
};
pub use reliable::{Reliable, Retries, Sleep};
pub use store::Repository;
pub use verify::{DamagedObject, VerifyOptions, VerifyReport, verify};

pub(crate) use layout::{bucket_bits, path};
