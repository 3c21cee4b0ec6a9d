//! Measurements of a model on a machine, saved next to the downloaded models.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::shapes::Figure;
use crate::config::{self, Config};
use crate::engine::persist::load;
use crate::engine::procfs;
use crate::engine::widths::{Class, Found};
use crate::model::{self, Model};

/// What was measured for a model on a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    #[serde(flatten)]
    pub found: Found,
    /// Where prompts may be cut; `None` until it is measured.
    pub cuts: Option<Cut>,
    pub figures: Vec<Figure>,
}

/// What `widths::cut_rows` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub rows: Option<usize>,
}

impl Measured {
    /// Empty if nothing is saved.
    pub fn load(path: &Path) -> Self {
        load(path).unwrap_or_default()
    }
}

/// Where the measurements are saved: one file per weights, machine, and settings that affect them.
pub fn measured_path(model: &Model, config: &Config, threads: usize) -> Option<PathBuf> {
    let cpu = procfs::cpu_info(&["model name"]);
    let engine = &config.engine;
    let machine = format!(
        "{cpu} {threads} {} {} {} {} {:?} {:?} {}",
        model::llama_cpp_version(),
        model.system_info(),
        model.placements(),
        engine.flash_attention,
        engine.kv_type_k,
        engine.kv_type_v,
        config.model.gpu_layers,
    );
    let key = model::hex(&Sha256::digest(machine)[..4]);
    let directory = model::source::cache_directory(&config.model).ok()?;
    Some(directory.join(format!("{}-{key}.tune.json", model.fingerprint())))
}

/// The classes of widths saved for weights of this fingerprint. Each may occur several times: measurements are for one
/// machine and one set of settings.
pub fn kept_classes(fingerprint: &str, settings: &config::Model) -> Vec<Class> {
    let directory = model::source::cache_directory(settings).ok();
    let entries = directory.and_then(|directory| std::fs::read_dir(directory).ok());
    let paths = entries.into_iter().flatten().flatten().map(|it| it.path());
    let is_of_weights = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{fingerprint}-")) && name.ends_with(".tune.json")
    };
    let measured = paths
        .filter(is_of_weights)
        .map(|path| Measured::load(&path));
    let mut classes: Vec<Class> = measured
        .flat_map(|it| it.found.classes().to_vec())
        .collect();
    classes.sort_by_key(|class| class.least);
    classes.dedup();
    classes
}

#[cfg(test)]
mod tests {
    use super::super::shapes::Shape;
    use super::*;
    use crate::engine::persist::save;

    #[test]
    fn measurements_are_saved() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new/figures.json");
        assert_eq!(Measured::load(&path), Measured::default());
        let mut found = Found::default();
        found.record(1, 2, true);
        found.record(1, 4, false);
        let measured = Measured {
            found,
            cuts: Some(Cut { rows: Some(8) }),
            figures: vec![Figure {
                shape: Shape {
                    contexts: 2,
                    width: 8,
                },
                tokens_per_second: 123.5,
            }],
        };
        save(&path, &measured);
        assert_eq!(Measured::load(&path), measured);
        std::fs::write(&path, "[{").expect("writes");
        assert_eq!(Measured::load(&path), Measured::default());
        let settings = config::Model {
            cache_dir: directory.path().display().to_string(),
            ..Config::default().model
        };
        let classes = || kept_classes("0123", &settings);
        assert_eq!(classes(), Vec::<Class>::new());
        for name in ["0123-a.tune.json", "0123-b.tune.json", "01234-c.tune.json"] {
            save(&directory.path().join(name), &measured);
        }
        assert_eq!(classes(), measured.found.classes());
    }
}
