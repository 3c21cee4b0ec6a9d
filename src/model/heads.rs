//! What can be read from the files of a model before its weights are loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::LoadError;
use super::fingerprint::fingerprint;
use super::{gguf, llama, source};

/// The headers of a model's files.
pub struct Heads {
    pub(super) path: PathBuf,
    /// One per file; `None` if it could not be read, which llama.cpp will report.
    heads: Vec<Option<gguf::Head>>,
}

impl Heads {
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        // llama.cpp's own message would be less clear, and it does not notice all of it.
        let head = match gguf::Head::read(path) {
            Err(gguf::HeadError::Damaged(why)) => {
                return Err(LoadError::Damaged {
                    path: path.display().to_string(),
                    why,
                    size: path.metadata().map_or(0, |file| file.len()),
                });
            }
            head => head.ok(),
        };
        let others = source::files(path).into_iter().filter(|file| file != path);
        let others = others.map(|file| gguf::Head::read(&file).ok());
        Ok(Self {
            path: path.to_owned(),
            heads: std::iter::once(head).chain(others).collect(),
        })
    }

    /// The tensor types of its matrices, by ggml's numbers, in ascending order.
    pub fn kinds(&self) -> Vec<u32> {
        let tensors = self.heads.iter().flatten().flat_map(|head| &head.tensors);
        let matrices = tensors.filter(|tensor| tensor.sizes[1] > 1);
        let kinds: BTreeSet<u32> = matrices.map(|tensor| tensor.kind).collect();
        kinds.into_iter().collect()
    }

    /// Size of all its files.
    pub fn bytes(&self) -> u64 {
        let sizes = source::files(&self.path).into_iter().map(|file| {
            let metadata = file.metadata();
            metadata.map_or(0, |metadata| metadata.len())
        });
        sizes.sum()
    }

    /// As `Model::fingerprint`.
    pub fn fingerprint(&self) -> std::io::Result<String> {
        fingerprint(&self.path)
    }

    /// Architecture, parameters and tensor types, as in `llama, 134.5M parameters, q4_1`; `None` if the header of the first
    /// file could not be read.
    pub fn description(&self) -> Option<String> {
        let first = self.heads.first()?.as_ref()?;
        let architecture = first.text("general.architecture").unwrap_or("unknown");
        let tensors = self.heads.iter().flatten().flat_map(|head| &head.tensors);
        let sizes = tensors.map(|tensor| tensor.sizes.map(|size| size as f64));
        let parameters: f64 = sizes.map(|sizes| sizes.iter().product::<f64>()).sum();
        let parameters = match parameters {
            many if many >= 1e9 => format!("{:.1}B", many / 1e9),
            few => format!("{:.1}M", few / 1e6),
        };
        let kinds = self.kinds();
        let kinds: Vec<String> = kinds.into_iter().filter_map(llama::kind_name).collect();
        Some(format!(
            "{architecture}, {parameters} parameters, {}",
            kinds.join(" and ")
        ))
    }

    /// As `Model::kv_bytes_per_token`, as far as the header tells.
    pub fn kv_bytes_per_token(&self, bytes_k: f64, bytes_v: f64) -> Option<f64> {
        let head = self.heads.first()?.as_ref()?;
        let architecture = head.text("general.architecture")?;
        let whole = |name: &str| head.whole(&format!("{architecture}.{name}"));
        let attention = |name: &str| whole(&format!("attention.{name}")).map(|it| it.to_string());
        // Recurrent and hybrid models have such a state instead of a cache, or in addition.
        if whole("ssm.state_size").is_some() || !layers_are_alike(architecture, attention) {
            return None;
        }
        let number = |name: &str| whole(name).map(|it| it as f64);
        let even = number("embedding_length")? / number("attention.head_count")?.max(1.0);
        let key = number("attention.key_length").unwrap_or(even);
        let value = number("attention.value_length").unwrap_or(even);
        let rows = number("block_count")? * number("attention.head_count_kv")?;
        Some(rows * (key * bytes_k + value * bytes_v))
    }
}

/// Whether every layer has its own keys and values, all of the same size, according to a model's attention metadata.
pub(super) fn layers_are_alike(
    architecture: &str,
    attention: impl Fn(&str) -> Option<String>,
) -> bool {
    let number = |name: &str| attention(name).and_then(|value| value.parse::<u32>().ok());
    // A list, with a number for each layer, has no text in llama.cpp.
    let one_number = number("head_count_kv").is_some();
    // In Gemma 3n and Gemma 4 the last layers attend to the cells of others, and some of Gemma 4's are smaller.
    let shared = architecture == "gemma3n"
        || number("shared_kv_layers").is_some_and(|layers| layers > 0)
        || attention("key_length_swa").is_some();
    // DeepSeek's latent attention stores something smaller than keys and values.
    let latent = attention("kv_lora_rank").is_some();
    one_number && !shared && !latent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_known_only_for_layers_that_are_alike() {
        let check = |architecture: &str, metadata: &[(&str, &str)], expect: bool| {
            let attention = |name: &str| {
                let found = metadata.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let alike = layers_are_alike(architecture, attention);
            assert_eq!(alike, expect, "{architecture} {metadata:?}");
        };
        check("llama", &[("head_count_kv", "3")], true);
        // A list, as in Deci and Nemotron, whose layers differ.
        check("deci", &[], false);
        check("gemma3n", &[("head_count_kv", "2")], false);
        let shared = |layers| [("head_count_kv", "2"), ("shared_kv_layers", layers)];
        check("gemma4", &shared("20"), false);
        check("gemma4", &shared("0"), true);
        let smaller = [("head_count_kv", "2"), ("key_length_swa", "256")];
        check("gemma4", &smaller, false);
        let latent = [("head_count_kv", "1"), ("kv_lora_rank", "512")];
        check("deepseek2", &latent, false);
    }
}
