//! Where a model computes: on the CPU with kernels of our own, or on devices that candle drives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::kernels::{Cpu, Format};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Dtype;

/// Where to compute. It is no part of the model context: vectors of one number format agree within
/// its tolerance wherever they are computed, and the canaries prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// Every GPU that this build can use, or the CPU where there is none.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// One NVIDIA GPU, counted from 0.
    Cuda(usize),
    /// The GPU of an Apple machine.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Self::Cuda).ok_or_else(|| {
                Error::new(ErrorKind::Configuration, "there is no such device")
                    .with("device", text)
                    .guidance("known are auto, cpu, cuda:N (N from 0) and metal")
            }),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// What a [`Device`] is on this machine.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Cpu(Cpu),
    /// One or more devices, each with its own copy of the weights.
    Devices(Vec<candle_core::Device>),
}

impl Place {
    /// `dtype` decides where `auto` has a choice: no device computes in integers.
    ///
    /// # Errors
    /// `Configuration` for a device that this build or this machine does not have.
    pub(super) fn find(device: Device, dtype: Option<Dtype>) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(Cpu::detect())),
            Device::Auto if dtype == Some(Dtype::Int8) => Ok(Self::Cpu(Cpu::detect())),
            Device::Auto => {
                let found = accelerators();
                Ok(if found.is_empty() { Self::Cpu(Cpu::detect()) } else { Self::Devices(found) })
            }
            Device::Cuda(n) => Ok(Self::Devices(vec![cuda(n)?])),
            Device::Metal => Ok(Self::Devices(vec![metal()?])),
        }
    }

    /// The format in which this place embeds fast and exactly enough: bfloat16 where it is
    /// multiplied, 32-bit floats elsewhere.
    pub(super) fn best(&self) -> Dtype {
        match self {
            Self::Cpu(cpu) if cpu.bf16() != Format::Bf16 => Dtype::F32,
            _ => Dtype::Bf16,
        }
    }

    /// What to call it: the CPU's instructions, or the devices.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.name().to_owned(),
            Self::Devices(devices) => devices.iter().map(label).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The name that [`Device`] has for one of candle's.
fn label(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "candle on the CPU".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => Device::Cuda(gpu_id).to_string(),
        candle_core::DeviceLocation::Metal { .. } => Device::Metal.to_string(),
    }
}

/// Every GPU that this build can use and that answers.
fn accelerators() -> Vec<candle_core::Device> {
    let mut found = Vec::new();
    #[cfg(feature = "cuda")]
    {
        let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count().unwrap_or(0);
        found.extend((0..usize::try_from(count).unwrap_or(0)).filter_map(|n| candle_core::Device::new_cuda(n).ok()));
    }
    if found.is_empty() && cfg!(feature = "metal") {
        found.extend(candle_core::Device::new_metal(0).ok());
    }
    found
}

fn cuda(n: usize) -> Result<candle_core::Device> {
    if !cfg!(feature = "cuda") {
        return Err(lacking(Device::Cuda(n), "cuda"));
    }
    candle_core::Device::new_cuda(n).map_err(|e| silent(Device::Cuda(n), "`nvidia-smi` lists the GPUs", e))
}

fn metal() -> Result<candle_core::Device> {
    if !cfg!(feature = "metal") {
        return Err(lacking(Device::Metal, "metal"));
    }
    candle_core::Device::new_metal(0).map_err(|e| silent(Device::Metal, "use `--device cpu`", e))
}

fn lacking(device: Device, feature: &str) -> Error {
    Error::new(ErrorKind::Configuration, "this build cannot use the device")
        .with("device", device)
        .guidance(format!("build with `cargo build --release --features {feature}`, or use `--device cpu`"))
}

fn silent(device: Device, next: &str, cause: candle_core::Error) -> Error {
    Error::new(ErrorKind::Configuration, "the device does not answer")
        .with("device", device)
        .because(cause)
        .guidance(next.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(3), Device::Metal] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert_eq!(wrong.parse::<Device>().unwrap_err().kind(), ErrorKind::Configuration);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_never_another() {
        for (device, built) in [(Device::Cuda(97), cfg!(feature = "cuda")), (Device::Metal, cfg!(feature = "metal"))] {
            let e = Place::find(device, None).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Configuration);
            assert_eq!(e.to_string().contains("this build"), !built, "{e}");
        }
        assert!(matches!(Place::find(Device::Auto, Some(Dtype::Int8)).unwrap(), Place::Cpu(_)));
    }
}
