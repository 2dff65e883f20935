//! Rows put aside on disk by partition, so that grouping a corpus by bucket needs no memory that grows with it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// Temporary files, one per partition, holding one JSON value per line; removed on drop.
pub(crate) struct Spill<T> {
    directory: tempfile::TempDir,
    writers: Vec<Option<BufWriter<File>>>,
    row: PhantomData<fn(T)>,
}

/// Buffer per partition: with 1024 partitions 16 MiB in all.
const BUFFER: usize = 16 << 10;

impl<T: Serialize + DeserializeOwned> Spill<T> {
    /// `partitions` empty partitions in the system's temporary directory.
    pub(crate) fn new(partitions: usize) -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new().prefix("regrow-spill-").tempdir()?,
            writers: (0..partitions).map(|_| None).collect(),
            row: PhantomData,
        })
    }

    fn path(&self, partition: usize) -> PathBuf {
        self.directory.path().join(format!("{partition}.jsonl"))
    }

    /// Adds a row to a partition.
    pub(crate) fn push(&mut self, partition: usize, row: &T) -> Result<()> {
        if self.writers[partition].is_none() {
            let file = File::create(self.path(partition))?;
            self.writers[partition] = Some(BufWriter::with_capacity(BUFFER, file));
        }
        if let Some(writer) = &mut self.writers[partition] {
            serde_json::to_writer(&mut *writer, row).map_err(|e| Error::from(std::io::Error::from(e)))?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Takes the rows of a partition, in the order they were added, and removes its file.
    pub(crate) fn take(&mut self, partition: usize) -> Result<Vec<T>> {
        let Some(writer) = self.writers[partition].take() else { return Ok(Vec::new()) };
        let file = writer.into_inner().map_err(|e| Error::from(e.into_error()))?;
        drop(file);
        let path = self.path(partition);
        let mut out = Vec::new();
        for line in BufReader::new(File::open(&path)?).lines() {
            out.push(serde_json::from_str(&line?).map_err(|e| {
                Error::new(ErrorKind::Unexpected, "a temporary file changed while it was in use")
                    .with("file", path.display())
                    .because(e)
            })?);
        }
        std::fs::remove_file(&path)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_by_partition_in_order() {
        let mut spill = Spill::<(u32, String)>::new(3).unwrap();
        for i in 0..1000u32 {
            spill.push(i as usize % 2, &(i, format!("line\nbreak {i}"))).unwrap();
        }
        let odd = spill.take(1).unwrap();
        assert!(odd.iter().map(|r| r.0).eq((0..1000).filter(|i| i % 2 == 1)));
        assert_eq!(odd[0].1, "line\nbreak 1");
        assert!(spill.take(2).unwrap().is_empty());
        assert!(spill.take(1).unwrap().is_empty());
    }
}
