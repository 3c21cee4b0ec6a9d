//! llama.cpp as a whole: its initialization, its devices, and what it says about itself.

use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType};

#[cfg(feature = "portable")]
use super::cpu_libraries;
use super::error::LoadError;
use super::llama;
use super::routines::{AMX, Routines};
use crate::config;

/// Initializes llama.cpp, once per process.
pub(super) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let initialise = || {
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
        #[cfg(feature = "portable")]
        cpu_libraries::load()?;
        LlamaBackend::init().map_err(|error| error.to_string())
    };
    BACKEND
        .get_or_init(initialise)
        .as_ref()
        .map_err(|error| LoadError::Backend(error.clone()))
}

/// A device that llama.cpp can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// llama.cpp's name for it, as in `CUDA0`.
    pub name: String,
    /// The vendor's name for it.
    pub description: String,
    pub is_gpu: bool,
    pub memory_bytes: u64,
    pub free_bytes: u64,
}

/// The devices that this build finds, including the CPU. Initializes llama.cpp.
pub fn devices() -> Result<Vec<Device>, LoadError> {
    backend()?;
    let devices = llama_cpp_2::list_llama_ggml_backend_devices().into_iter();
    let device = |device: LlamaBackendDevice| Device {
        name: device.name,
        description: device.description,
        is_gpu: matches!(
            device.device_type,
            LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu
        ),
        memory_bytes: device.memory_total as u64,
        free_bytes: device.memory_free as u64,
    };
    Ok(devices.map(device).collect())
}

/// Whether this build is for GPUs and finds none. llama.cpp would use the CPU without a word.
pub(super) fn lacks_gpu() -> Result<bool, LoadError> {
    let has_gpu = || Ok(devices()?.iter().any(|device| device.is_gpu));
    Ok(!config::gpu_back_ends().is_empty() && !has_gpu()?)
}

/// ggml's numbers of tensor types, by their names, as in `q4_K`.
pub fn kinds_named(names: &[&str]) -> Vec<u32> {
    let is_named =
        |kind: &u32| llama::kind_name(*kind).is_some_and(|name| names.contains(&name.as_str()));
    (0..llama::kinds()).filter(is_named).collect()
}

/// llama.cpp's line about the CPU features it was built for.
pub fn system_info() -> String {
    llama::system_info().trim().to_owned()
}

/// llama.cpp's version.
pub fn llama_cpp_version() -> String {
    llama::version()
}

impl Routines {
    /// Those that this build and CPU have. Initializes llama.cpp.
    pub fn here(self) -> Result<Self, LoadError> {
        backend()?;
        let names = llama::extra_buffer_types();
        Ok(Self {
            amx: self.amx && names.iter().any(|name| name == AMX),
            repack: self.repack && names.iter().any(|name| name != AMX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_ask_for_the_line_about_the_cpu_at_once() {
        std::thread::scope(|scope| {
            let ask = || (0..200).map(|_| system_info()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            for thread in threads {
                let lines = thread.join().expect("no panic");
                assert!(lines.iter().all(|line| *line == system_info()));
            }
        });
    }
}
