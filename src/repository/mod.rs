//! The repository: snapshots, vector sets and drill records on an object store.
//!
//! Write order is data, then index, then commit record, always with `PutMode::Create`: a reader never
//! sees half a snapshot, and nothing that was committed is ever overwritten.

mod file_seal;
mod frame;
mod inventory;
mod key_changes;
mod keys;
mod layout;
mod locks;
mod manifest;
mod overlay;
mod process;
mod reliable;
mod seal;
mod slots;
mod store;
#[cfg(test)]
pub(crate) mod test_store;
mod transfer;

#[cfg(test)]
mod encryption_tests;

pub use crate::verify::{DamagedObject, VerifyOptions, VerifyReport, verify};
pub use file_seal::{FileSeal, FileWriterSeal};
pub(crate) use inventory::GROUP_BITS;
pub use inventory::{DocumentBrief, DocumentRow, InventoryReader, InventoryWriter, payload_digest};
pub use key_changes::{KeySlot, KeysReport, SlotState, add_keys, list_keys, remove_key, rotate_keys};
pub use keys::{KeyId, PassphraseCost, Unlock};
pub use layout::{FORMAT_VERSION, bucket_of};
pub use locks::{Lock, LockInfo, LockKind, Locking, UnlockReport};
pub use manifest::{
    Buckets, Captured, CorpusRecord, Counts, Manifest, ObjectRef, SkippedDocument, SnapshotSummary, TargetRecord,
};
pub use reliable::{Reliable, Retries, Sleep};
pub use slots::SlotKind;
pub use store::Repository;

pub(crate) use layout::{bucket_bits, path};
pub(crate) use seal::guarded;
pub(crate) use transfer::identity_of;
