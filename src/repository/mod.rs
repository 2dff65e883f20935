//! The repository: snapshots, vector sets and drill records on an object store.
//!
//! Write order is data, then index, then commit record, always with `PutMode::Create`: a reader never
//! sees half a snapshot, and nothing that was committed is ever overwritten.

mod inventory;
mod layout;
mod locks;
mod manifest;
mod overlay;
mod store;
#[cfg(test)]
pub(crate) mod test_store;
mod verify;

pub use inventory::{DocumentRow, InventoryReader, InventoryWriter, payload_digest};
pub use layout::{FORMAT_VERSION, bucket_of};
pub use locks::{Lock, LockInfo, LockKind, Locking, UnlockReport};
pub use manifest::{
    Buckets, Captured, CorpusRecord, Counts, Manifest, ObjectRef, SkippedDocument, SnapshotSummary, TargetRecord,
};
pub use store::Repository;
pub use verify::{DamagedObject, VerifyOptions, VerifyReport, verify};

pub(crate) use layout::{bucket_bits, path};
