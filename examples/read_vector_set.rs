//! Lists the vector sets of a repository and reads them part by part, holding one part at a time.
//!
//!     cargo run --release --example read_vector_set -- REPOSITORY
//!
//! An encrypted repository is opened with the passphrase in `REGROW_PASSPHRASE`.
//!
//! Every part is checked against the digest in its commit record and the digest of its contents.

use std::path::Path;

use futures::TryStreamExt;
use regrow::Result;
use regrow::repository::{Repository, Unlock};
use regrow::vectors::{StoredVectorSet, VectorSetRecord, VectorSource};

#[tokio::main]
async fn main() -> Result<()> {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("usage: read_vector_set REPOSITORY");
        return Ok(());
    };
    let unlock = std::env::var("REGROW_PASSPHRASE").map(Unlock::passphrase).unwrap_or_default();
    let repository = Repository::open(&url, Path::new("."), &[], &unlock).await?;
    let names: Vec<String> = repository.list("vector-sets").map_ok(|(name, ..)| name).try_collect().await?;
    for name in names {
        let id = name.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        let record = VectorSetRecord::read(&repository, id).await?;
        println!("vector set {id}: {} rows in {} parts, {}", record.rows, record.parts.len(), record.model.name);

        let set = StoredVectorSet::new(&repository, &record.parts)?;
        for part in 0..set.parts() {
            let rows = set.read(part).await?;
            let Some(first) = rows.first() else { continue };
            let text: String = first.text.chars().take(60).collect();
            println!("  part {part}: {} rows, first of {}: {text:?}", rows.len(), first.document_id);
        }
    }
    Ok(())
}
