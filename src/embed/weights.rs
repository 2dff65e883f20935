//! Reading tensors from safetensors files and from PyTorch's own format, one at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::pickle::PthTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, ErrorKind, Result};

/// Largest header that is believed.
const MAX_HEADER: u64 = 100 << 20;

/// The tensors of a model's weights files. Nothing is held in memory but their names.
pub struct Weights {
    tensors: HashMap<String, Place>,
    pickled: Option<(PathBuf, PthTensors)>,
}

struct Place {
    file: PathBuf,
    start: u64,
    info: TensorInfo,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

impl Weights {
    /// Of files by their names in a directory; names of tensors in a folder begin with it. Reads the headers and checks that each file is as long as its header says.
    ///
    /// # Errors
    /// `ModelMismatch` for a file that is not a weights file or is truncated.
    pub fn open(directory: &Path, files: &[&str]) -> Result<Self> {
        let mut weights = Self { tensors: HashMap::new(), pickled: None };
        for file in files {
            let (path, folder) = (&directory.join(file), file.rfind('/').map_or("", |i| &file[..=i]));
            if path.extension().is_some_and(|e| e == "bin") {
                let tensors = PthTensors::new(path, None)
                    .map_err(|e| wrong("this is not a file of PyTorch tensors", path).because(e))?;
                weights.pickled = Some((path.clone(), tensors));
            } else {
                weights.add(path, folder)?;
            }
        }
        Ok(weights)
    }

    fn add(&mut self, path: &Path, folder: &str) -> Result<()> {
        let at = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => wrong("the weights file is truncated", path),
            _ => Error::from(e).with("file", path.display()),
        };
        let mut file = File::open(path).map_err(at)?;
        let length = file.metadata().map_err(at)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(at)?;
        let header = u64::from_le_bytes(size);
        if header > MAX_HEADER {
            return Err(wrong("this is not a safetensors file", path));
        }
        if header + 8 > length {
            return Err(wrong("the weights file is truncated", path)
                .with("expected", format!("at least {} bytes", header + 8))
                .with("found", format!("{length} bytes")));
        }
        let mut text = vec![0; usize::try_from(header).unwrap_or(0)];
        file.read_exact(&mut text).map_err(at)?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|e| wrong("this is not a safetensors file", path).because(e))?;
        let expected = metadata.tensors().values().map(|t| t.data_offsets.1 as u64).max().unwrap_or(0) + header + 8;
        if expected != length {
            return Err(wrong("the weights file is not as long as its header says", path)
                .with("expected", format!("{expected} bytes"))
                .with("found", format!("{length} bytes")));
        }
        for (name, info) in metadata.tensors() {
            self.tensors.insert(
                format!("{folder}{name}"),
                Place { file: path.to_owned(), start: header + 8, info: info.clone() },
            );
        }
        Ok(())
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
            || self.pickled.as_ref().is_some_and(|(_, p)| p.tensor_infos().contains_key(name))
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> Vec<String> {
        let pickled = self.pickled.iter().flat_map(|(_, p)| p.tensor_infos().keys());
        self.tensors.keys().chain(pickled).cloned().collect()
    }

    /// Shapes of the tensors whose name ends like this, by name; nothing is read but headers.
    pub fn shapes(&self, suffix: &str) -> Vec<(String, Vec<usize>)> {
        let plain = self.tensors.iter().map(|(name, place)| (name.clone(), place.info.shape.clone()));
        let pickled = self.pickled.iter().flat_map(|(_, p)| p.tensor_infos());
        let pickled = pickled.map(|(name, info)| (name.clone(), info.layout.shape().dims().to_vec()));
        plain.chain(pickled).filter(|(name, _)| name.ends_with(suffix)).collect()
    }

    /// One tensor as 32-bit floats, row-major, with its shape.
    ///
    /// # Errors
    /// `ModelMismatch` when it is missing or has no floats.
    pub fn read(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>)> {
        if let Some(place) = self.tensors.get(name) {
            return Ok((place.read(name)?, place.info.shape.clone()));
        }
        let missing = || Error::new(ErrorKind::ModelMismatch, "the weights lack a tensor").with("tensor", name);
        let (path, pickled) = self.pickled.as_ref().ok_or_else(missing)?;
        let bad = |e: candle_core::Error| wrong("a tensor cannot be read", path).with("tensor", name).because(e);
        let tensor = pickled.get(name).map_err(bad)?.ok_or_else(missing)?;
        let shape = tensor.dims().to_vec();
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).map_err(bad)?;
        Ok((values, shape))
    }

    /// One tensor that must have this shape.
    ///
    /// # Errors
    /// `ModelMismatch` when it is missing or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (values, found) = self.read(name)?;
        if found != shape {
            return Err(Error::new(ErrorKind::ModelMismatch, "a tensor of the weights has the wrong shape")
                .with("tensor", name)
                .with("expected", format!("{shape:?}"))
                .with("found", format!("{found:?}")));
        }
        Ok(values)
    }
}

impl Place {
    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let at = |e: std::io::Error| Error::from(e).with("file", self.file.display()).with("tensor", name);
        let (from, to) = self.info.data_offsets;
        let mut bytes = vec![0; to.saturating_sub(from)];
        let mut file = File::open(&self.file).map_err(at)?;
        file.seek(SeekFrom::Start(self.start + from as u64)).map_err(at)?;
        file.read_exact(&mut bytes).map_err(at)?;
        Ok(match self.info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(wrong("a tensor of the weights is not of floats", &self.file)
                    .with("tensor", name)
                    .with("found", format!("{other:?}")));
            }
        })
    }
}

fn wrong(what: &str, path: &Path) -> Error {
    Error::new(ErrorKind::ModelMismatch, what)
        .with("file", path.display())
        .guidance("get the model's files again, or give a directory with the right ones as `model.source`")
}
