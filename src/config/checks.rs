//! Checks that concern several settings, or this build.

use super::display::quoted;
use super::entry::{Entry, Origin};
use super::error::Problem;
use super::sections::{Config, KvType, LoadAt};

/// Settings that identify a model, so that no table of `[[models]]` inherits them.
pub(super) const OWN_TO_A_MODEL: [&str; 3] = ["model.source", "model.name", "model.aliases"];

/// Values that are not allowed.
pub(super) fn not_allowed(entry: &Entry) -> Option<Problem> {
    let Entry {
        setting,
        value,
        origin,
    } = entry;
    (!setting.allowed.admits(value)).then(|| Problem::NotAllowed {
        key: setting.key.to_owned(),
        got: super::display::shown(setting, value),
        allowed: setting.allowed.to_string(),
        origin: origin.clone(),
    })
}

/// Settings of `[model]` that make no sense next to tables of `[[models]]`.
pub(super) fn beside_tables(effective: &[Entry]) -> impl Iterator<Item = Problem> {
    effective
        .iter()
        .filter(|entry| OWN_TO_A_MODEL.contains(&entry.setting.key) && entry.origin != Origin::Default)
        .map(|entry| {
            Problem::Conflict(format!(
                "{} is set ({}), but with [[models]] each table sets its own; [model] is for shared defaults.",
                entry.setting.key, entry.origin
            ))
        })
}

/// The GPU back ends of this build.
pub fn gpu_back_ends() -> Vec<&'static str> {
    let all = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("rocm", cfg!(feature = "rocm")),
    ];
    let built = all.into_iter().filter(|(_, is_built)| *is_built);
    built.map(|(name, _)| name).collect()
}

/// Values that are allowed, but not together, or not in this build.
pub(super) fn combination(config: &Config) -> Option<Problem> {
    let why = if config.engine.kv_type_v == KvType::q8_0 && !config.engine.flash_attention {
        "engine.kv_type_v = \"q8_0\" needs engine.flash_attention = true: llama.cpp cannot read quantized values without it."
    } else if config.engine.pinned_prefixes > config.engine.cache_lanes {
        "engine.pinned_prefixes is above engine.cache_lanes: each pinned prefix takes one of these lanes. Raise cache_lanes, or pin fewer."
    } else if config.model.gpu_layers > 0 && gpu_back_ends().is_empty() {
        "model.gpu_layers is above 0, but this build has no GPU back end. Build with `--features cuda` (or metal, vulkan, rocm), or set it to 0."
    } else if config.sampling.values.repeat_penalty != 1.0
        && config.sampling.values.repetition_penalty != 1.0
    {
        "sampling.repeat_penalty and sampling.repetition_penalty both penalize repeated tokens: leave one of them at 1."
    } else if config.server.tls_certificate.is_empty() != config.server.tls_key.is_empty() {
        "server.tls_certificate and server.tls_key belong together: set both, or none."
    } else {
        return None;
    };
    Some(Problem::Conflict(why.to_owned()))
}

/// Models without a name, or with the name of another.
pub(super) fn names(config: &Config) -> Vec<Problem> {
    let is_one = config.models.is_empty();
    let mut problems = Vec::new();
    let mut known: Vec<(String, usize)> = Vec::new();
    for (number, one) in config.of_each_model().iter().enumerate() {
        let names = one.model.names();
        if names.is_empty() && !(is_one && one.model.load == LoadAt::Start) {
            problems.push(if is_one {
                "model.load = \"first-use\" needs model.name: requests must have a name to ask for."
                    .to_owned()
            } else {
                format!(
                    "models[{number}] needs a name: only models given by a path are named after their file."
                )
            });
        }
        for name in names {
            match known.iter().find(|(other, _)| *other == name) {
                Some((_, other)) => problems.push(format!(
                    "models[{other}] and models[{number}] have the same name, {}: rename one of them.",
                    quoted(&name)
                )),
                None => known.push((name, number)),
            }
        }
    }
    problems.into_iter().map(Problem::Conflict).collect()
}

/// More models to load at startup than may be loaded at once.
pub(super) fn loaded_at_start(config: &Config) -> Option<Problem> {
    let at_start = |one: &&Config| one.model.load == LoadAt::Start;
    let wanted = config.of_each_model().iter().filter(at_start).count();
    let most = config.limits.loaded_models;
    (most > 0 && wanted > most).then(|| {
        Problem::Conflict(format!(
            "limits.loaded_models is {most}, but {wanted} models are to be loaded at startup: set load = \"first-use\" \
             for some of them."
        ))
    })
}
