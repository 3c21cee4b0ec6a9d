//! LoRA adapters: those loaded with a model, and those that apply to a sequence.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;

use super::error::LoadError;
use super::fingerprint::fingerprint;
use super::gguf::{Head, HeadError, Tensor, Value};
use super::llama::Lora;

/// Maximum number of adapters of a model.
const MOST_ADAPTERS: usize = 64;
/// The largest scale of an adapter, on either side of zero.
pub const LARGEST_SCALE: f32 = 100.0;

/// A loaded adapter.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    scale: f32,
    fingerprint: String,
    lora: Lora,
}

impl Adapter {
    /// From the settings, else the file's name without its extension.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scale for requests that name no adapters.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Twelve hexadecimal digits that identify its weights.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn lora(&self) -> &Lora {
        &self.lora
    }
}

/// The adapters of a sequence, with their scales. They change what the model computes, as the weights do. Adapters with a
/// scale of zero are left out, so equal values have equal effects.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adapters(Arc<[(usize, ScaleBits)]>);

/// A scale that is neither zero nor NaN, so that equal bits are equal numbers.
type ScaleBits = u32;

impl Adapters {
    /// Adapters by their indices in the model's list, each with a finite scale. For duplicates, the last scale counts.
    pub fn new(scales: impl IntoIterator<Item = (usize, f32)>) -> Self {
        let by_id: std::collections::BTreeMap<usize, f32> = scales.into_iter().collect();
        Self(
            by_id
                .into_iter()
                .filter(|(_, scale)| scale.is_finite() && *scale != 0.0)
                .map(|(id, scale)| (id, scale.to_bits()))
                .collect(),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the model's list, with their scales.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        self.0
            .iter()
            .map(|&(id, scale)| (id, f32::from_bits(scale)))
    }
}

/// The names of the adapters of `model.lora`, in order. Empty if the setting is wrong: loading the model says why.
pub fn adapter_names(settings: &[String]) -> Vec<String> {
    let all = Named::all(settings).unwrap_or_default();
    all.into_iter().map(|named| named.name).collect()
}

/// An adapter in the settings: `[NAME=]PATH[@SCALE]`.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    name: String,
    path: PathBuf,
    scale: f32,
}

impl Named {
    /// The text after the last `@` is a scale if it is a number, and the text before the first `=` is a name if it has no
    /// `/`. So every path can be written, with a name and a scale if needed.
    fn parse(text: &str) -> Result<Self, LoadError> {
        let wrong = |why| LoadError::AdapterSetting {
            setting: text.to_owned(),
            why,
        };
        let (rest, scale) = match text.rsplit_once('@') {
            Some((rest, scale)) => match scale.parse::<f32>() {
                Ok(scale) => (rest, scale),
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        if scale.is_nan() || scale.abs() > LARGEST_SCALE {
            return Err(wrong("the scale is not between -100 and 100"));
        }
        let (name, path) = match rest.split_once('=') {
            Some((name, path)) if !name.contains('/') => (Some(name.trim()), path),
            _ => (None, rest),
        };
        let path = Path::new(path.trim());
        let name = match name {
            Some(name) => name.to_owned(),
            None => path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        if name.is_empty() || name.contains(char::is_control) {
            return Err(wrong("the name is empty, or has control characters"));
        }
        if path.as_os_str().is_empty() {
            return Err(wrong("the path is missing"));
        }
        Ok(Self {
            name,
            path: path.to_owned(),
            scale,
        })
    }

    /// What `model.lora` names. Names differ: requests may call an adapter by its name.
    pub(super) fn all(settings: &[String]) -> Result<Vec<Self>, LoadError> {
        if settings.len() > MOST_ADAPTERS {
            return Err(LoadError::TooManyAdapters {
                given: settings.len(),
                most: MOST_ADAPTERS,
            });
        }
        let mut all: Vec<Self> = Vec::new();
        for setting in settings {
            let named = Self::parse(setting)?;
            if all.iter().any(|other| other.name == named.name) {
                return Err(LoadError::AdapterSetting {
                    setting: setting.clone(),
                    why: "another adapter has the same name; set one, as in NAME=PATH",
                });
            }
            all.push(named);
        }
        Ok(all)
    }

    /// Loads it for these weights, from the file `weights_path`.
    pub(super) fn load(
        self,
        weights: &LlamaModel,
        weights_path: &Path,
    ) -> Result<Adapter, LoadError> {
        let path = self.path.display().to_string();
        let wrong = |why: String| LoadError::Adapter {
            path: path.clone(),
            why,
        };
        let head = Head::read(&self.path).map_err(|error| wrong(error.to_string()))?;
        let base = Base {
            value: &|key| weights.meta_val_str(key).ok(),
            path: weights_path,
        };
        check(&head, &base).map_err(wrong)?;
        let norms = head
            .tensors
            .iter()
            .filter(|tensor| !is_half(&tensor.name))
            .count();
        if norms > 0 {
            tracing::warn!(
                adapter = self.name,
                tensors = norms,
                "llama.cpp ignores the tensors of this adapter that are not pairs of lora_a and lora_b"
            );
        }
        let fingerprint =
            fingerprint(&self.path).map_err(|error| wrong(HeadError::from(error).to_string()))?;
        let lora = Lora::load(weights, &self.path).ok_or(LoadError::AdapterLoad { path })?;
        Ok(Adapter {
            name: self.name,
            scale: self.scale,
            fingerprint,
            lora,
        })
    }
}

/// The model that an adapter is to be loaded for.
struct Base<'a> {
    /// A value of its metadata.
    value: &'a dyn Fn(&str) -> Option<String>,
    path: &'a Path,
}

fn is_half(name: &str) -> bool {
    name.ends_with(".lora_a") || name.ends_with(".lora_b")
}

/// Rejects adapters that llama.cpp would abort on, or apply wrongly, when it reads the file or first computes with it. It
/// refuses others itself.
fn check(head: &Head, base: &Base) -> Result<(), String> {
    let text = |key| head.text(key).unwrap_or_default();
    match (text("general.type"), text("adapter.type")) {
        ("adapter", "lora") => {}
        ("adapter", kind) => {
            return Err(format!("is an adapter of the type {kind:?}, not \"lora\""));
        }
        _ => return Err("is not an adapter: its general.type is not \"adapter\"".to_owned()),
    }
    let (theirs, ours) = (
        text("general.architecture"),
        (base.value)("general.architecture").unwrap_or_default(),
    );
    if theirs != ours {
        return Err(format!(
            "is an adapter for the architecture {theirs:?}; the model's is {ours:?}"
        ));
    }
    match head.value("adapter.lora.alpha") {
        None => {}
        Some(Value::Float(alpha)) if alpha.is_finite() => {}
        Some(_) => return Err("has an adapter.lora.alpha that is not a 32-bit float".to_owned()),
    }
    if head.value("adapter.alora.invocation_tokens").is_some() {
        return Err("is an activated LoRA (aLoRA), which is not supported".to_owned());
    }
    let mut halves = 0;
    for tensor in &head.tensors {
        let Some(name) = tensor.name.strip_suffix(".lora_a") else {
            continue;
        };
        // llama.cpp removes the suffix wherever it is in a name.
        if name.contains(".lora_") {
            return Err(format!(
                "has a tensor with an unexpected name: {}",
                tensor.name
            ));
        }
        let other = head
            .tensor(&format!("{name}.lora_b"))
            .ok_or_else(|| format!("lacks the other half of {}", tensor.name))?;
        check_pair(name, tensor, other, base)?;
        halves += 2;
    }
    if halves == 0 {
        return Err("has no pair of lora_a and lora_b".to_owned());
    }
    if halves
        < head
            .tensors
            .iter()
            .filter(|tensor| is_half(&tensor.name))
            .count()
    {
        return Err("lacks the other half of a lora_b".to_owned());
    }
    Ok(())
}

/// Checks that two halves can be multiplied with each other and with the input of the model's tensor.
fn check_pair(name: &str, a: &Tensor, b: &Tensor, base: &Base) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {name}, {:?} and {:?}", a.sizes, b.sizes));
    if ![a, b].iter().all(|half| computes(half.kind)) {
        return wrong("has a tensor type other than f32, f16, bf16 or q8_0");
    }
    if a.sizes.contains(&0) || b.sizes.contains(&0) {
        return wrong("has an empty tensor");
    }
    let experts = if name.ends_with("_exps.weight") {
        let key = format!(
            "{}.expert_count",
            (base.value)("general.architecture").unwrap_or_default()
        );
        (base.value)(&key).and_then(|count| count.parse().ok())
    } else {
        Some(1)
    };
    if [a, b]
        .iter()
        .any(|half| Some(half.sizes[2]) != experts || half.sizes[3] != 1)
    {
        return wrong("has a tensor with more dimensions than its weight");
    }
    if name == "token_embd.weight" {
        // These halves are looked up by row, so they are transposed. If the same weight computes the logits, too, llama.cpp
        // multiplies with them nevertheless, and aborts.
        let tied =
            Head::read(base.path).map_or(true, |head| head.tensor("output.weight").is_none());
        if tied {
            return Err(
                "changes token_embd.weight, which in this model (or its first file) also computes the logits: llama.cpp \
                 cannot apply it"
                    .to_owned(),
            );
        }
        if a.sizes[0] != b.sizes[0] {
            return wrong("has halves of different ranks");
        }
    } else if a.sizes[1] != b.sizes[0] {
        return wrong("has halves of different ranks");
    }
    Ok(())
}

/// Whether a tensor type is one of those that llama.cpp's converter writes: f32, f16, q8_0 and bf16. llama.cpp aborts
/// on others, such as integers.
fn computes(kind: u32) -> bool {
    [0, 1, 8, 30].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::super::gguf::tests::written;
    use super::*;

    #[test]
    fn settings_have_a_name_a_path_and_a_scale() {
        let check = |text: &str, name: &str, path: &str, scale| {
            let expect = Named {
                name: name.to_owned(),
                path: path.into(),
                scale,
            };
            assert_eq!(Named::parse(text).expect(text), expect);
        };
        check("a.gguf", "a", "a.gguf", 1.0);
        check("some/a.b.gguf", "a.b", "some/a.b.gguf", 1.0);
        check("a.gguf@0.5", "a", "a.gguf", 0.5);
        check("a.gguf@-100", "a", "a.gguf", -100.0);
        check("x=a.gguf@0", "x", "a.gguf", 0.0);
        check("x = a.gguf", "x", "a.gguf", 1.0);
        // An @ or = of the path's own.
        check("dir@2/a.gguf", "a", "dir@2/a.gguf", 1.0);
        check("dir/a@2@1", "a@2", "dir/a@2", 1.0);
        check("./a=b.gguf", "a=b", "./a=b.gguf", 1.0);
        check("x=a=b.gguf", "x", "a=b.gguf", 1.0);
        check("a.gguf@old", "a", "a.gguf@old", 1.0);
        for wrong in [
            "=a.gguf", "x=", "x=@1", "@1", "a@101", "a@inf", "a@NaN", "a\nb=c",
        ] {
            let error = Named::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("Allowed: [NAME=]PATH[@SCALE]"), "{error}");
        }
    }

    #[test]
    fn names_differ_and_are_not_too_many() {
        let all = |names: &[&str]| {
            let settings: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Named::all(&settings)
        };
        assert_eq!(all(&["a.gguf", "b=a.gguf"]).expect("fine").len(), 2);
        let settings = ["dir/a.gguf@0", "b=a.gguf"].map(str::to_owned);
        assert_eq!(adapter_names(&settings), ["a", "b"]);
        let error = all(&["a.gguf", "dir/a.gguf"]).expect_err("one name");
        assert!(
            error
                .to_string()
                .contains("another adapter has the same name"),
            "{error}"
        );
        let error = all(&vec!["a"; 65]).expect_err("too many").to_string();
        assert_eq!(
            error,
            "model.lora contains 65 adapters. Allowed: at most 64"
        );
    }

    #[test]
    fn adapters_with_equal_effects_are_equal() {
        let check = |a: &[(usize, f32)], b: &[(usize, f32)], equal| {
            let [a, b] = [a, b].map(|list| Adapters::new(list.iter().copied()));
            assert_eq!(a == b, equal, "{a:?} {b:?}");
        };
        check(&[], &[(0, 0.0), (1, -0.0)], true);
        check(&[(1, 0.5), (0, 2.0)], &[(0, 2.0), (1, 0.5)], true);
        check(&[(0, 1.0)], &[(1, 1.0)], false);
        check(&[(0, 1.0)], &[(0, -1.0)], false);
        let both: Vec<_> = Adapters::new([(3, 0.5), (1, 2.0)]).iter().collect();
        assert_eq!(both, [(1, 2.0), (3, 0.5)]);
    }

    const PAIR: [(&str, [u64; 4], u32); 2] = [
        ("blk.0.attn_q.weight.lora_a", [64, 4, 1, 1], 0),
        ("blk.0.attn_q.weight.lora_b", [4, 64, 1, 1], 1),
    ];

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn values() -> Vec<(&'static str, Value)> {
        vec![
            ("general.type", text("adapter")),
            ("general.architecture", text("llama")),
            ("adapter.type", text("lora")),
            ("adapter.lora.alpha", Value::Float(8.0)),
        ]
    }

    /// Checks an adapter for a model with these tensors and four experts.
    fn verdict(
        values: &[(&str, Value)],
        tensors: &[(&str, [u64; 4], u32)],
        model: &[(&str, [u64; 4], u32)],
    ) -> Result<(), String> {
        let [adapter, base] = [written(values, tensors), written(&[], model)].map(|bytes| {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), bytes).expect("written");
            file
        });
        let head = Head::read(adapter.path()).expect("a head");
        check(
            &head,
            &Base {
                value: &|key| match key {
                    "general.architecture" => Some("llama".to_owned()),
                    "llama.expert_count" => Some("4".to_owned()),
                    _ => None,
                },
                path: base.path(),
            },
        )
    }

    #[test]
    fn adapters_that_llama_cpp_would_abort_on_are_refused() {
        assert_eq!(verdict(&values(), &PAIR, &[]), Ok(()));
        let with = |key: &str, value: Option<Value>| {
            let mut values = values();
            values.retain(|(other, _)| *other != key);
            let key: &'static str = match key {
                "adapter.alora.invocation_tokens" => "adapter.alora.invocation_tokens",
                key => {
                    self::values()
                        .iter()
                        .find(|(other, _)| *other == key)
                        .expect("known")
                        .0
                }
            };
            values.extend(value.map(|value| (key, value)));
            verdict(&values, &PAIR, &[]).err()
        };
        let says = |error: Option<String>, part: &str| {
            let error = error.unwrap_or_else(|| panic!("accepted, in spite of: {part}"));
            assert!(error.contains(part), "{error}");
        };
        says(with("general.type", None), "not an adapter");
        says(with("general.type", Some(text("model"))), "not an adapter");
        says(
            with("general.type", Some(Value::Float(1.0))),
            "not an adapter",
        );
        says(
            with("general.architecture", Some(text("gemma3"))),
            "\"gemma3\"; the model's is \"llama\"",
        );
        says(
            with("general.architecture", Some(Value::Other)),
            "architecture",
        );
        says(
            with("adapter.type", Some(text("control_vector"))),
            "control_vector",
        );
        says(with("adapter.lora.alpha", Some(text("8"))), "alpha");
        says(
            with("adapter.lora.alpha", Some(Value::Float(f32::NAN))),
            "alpha",
        );
        assert_eq!(with("adapter.lora.alpha", None), None);
        says(
            with("adapter.alora.invocation_tokens", Some(Value::Other)),
            "aLoRA",
        );
    }

    #[test]
    fn halves_must_fit() {
        let check = |tensors: &[(&str, [u64; 4], u32)], part: &str| {
            let error = verdict(&values(), tensors, &[]).expect_err(part);
            assert!(error.contains(part), "{error}");
        };
        let [a, b] = PAIR;
        check(&[], "no pair");
        check(&[("blk.0.attn_norm.weight", [64, 1, 1, 1], 0)], "no pair");
        check(&[a], "lacks the other half of blk.0.attn_q.weight.lora_a");
        check(&[b], "no pair");
        check(
            &[a, b, ("x.lora_b", [4, 4, 1, 1], 0)],
            "lacks the other half of a lora_b",
        );
        check(&[a, (b.0, [5, 64, 1, 1], 0)], "different ranks");
        check(&[(a.0, a.1, 26), b], "f32, f16, bf16 or q8_0");
        check(&[(a.0, [64, 4, 2, 1], 0), b], "more dimensions");
        check(&[(a.0, [0, 4, 1, 1], 0), b], "empty");
        check(
            &[("x.lora_a.lora_a", a.1, 0), ("x.lora_a.lora_b", b.1, 0)],
            "unexpected name",
        );
        let experts = |count| {
            verdict(
                &values(),
                &[
                    ("blk.0.ffn_up_exps.weight.lora_a", [64, 4, count, 1], 0),
                    ("blk.0.ffn_up_exps.weight.lora_b", [4, 64, count, 1], 0),
                ],
                &[],
            )
        };
        assert_eq!(experts(4), Ok(()));
        assert!(experts(3).is_err());
        assert!(experts(1).is_err());
    }

    #[test]
    fn embeddings_are_changed_only_if_they_compute_no_logits() {
        let halves = |a, b| {
            [
                ("token_embd.weight.lora_a", a, 0),
                ("token_embd.weight.lora_b", b, 0),
            ]
        };
        let fitting = halves([4, 32, 1, 1], [4, 64, 1, 1]);
        let output = [("output.weight", [64, 32, 1, 1], 0)];
        assert_eq!(verdict(&values(), &fitting, &output), Ok(()));
        let tied = verdict(&values(), &fitting, &[]).expect_err("tied");
        assert!(tied.contains("also computes the logits"), "{tied}");
        let ranks = verdict(&values(), &halves([4, 32, 1, 1], [5, 64, 1, 1]), &output);
        assert!(ranks.expect_err("ranks").contains("different ranks"));
    }
}
