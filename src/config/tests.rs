//! Precedence, origins and refusals of settings; and that `config/default.toml`, the types and the table of settings agree.

use std::path::PathBuf;
use std::{env, fs, process};

use super::settings::{Allowed, SETTINGS};
use super::sources::DEFAULTS;
use super::*;

fn environment(variables: &[(&str, &str)]) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn set(key: &str, value: &str) -> Flag {
    Flag {
        name: "--set".to_owned(),
        key: key.to_owned(),
        value: FlagValue::One(value.to_owned()),
    }
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    Config::load(&Sources {
        environment: environment(variables),
        ..Sources::default()
    })
}

/// Loads a settings file of that text, which is gone afterwards.
fn from_file(name: &str, text: &str) -> Result<Loaded, ConfigError> {
    let path = env::temp_dir().join(format!("candor-{}-{name}.toml", process::id()));
    fs::write(&path, text).unwrap();
    let loaded = Config::load(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    });
    fs::remove_file(&path).unwrap();
    loaded
}

/// The error's lines, with the temporary directory left out.
fn message(loaded: Result<Loaded, ConfigError>) -> String {
    let directory = format!("{}/candor-{}-", env::temp_dir().display(), process::id());
    loaded.unwrap_err().to_string().replace(&directory, "")
}

#[test]
fn the_defaults_load_and_come_from_the_defaults() {
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.server.port, 8000);
    assert_eq!(loaded.config.sampling.values.temperature, 0.8);
    for setting in SETTINGS {
        assert_eq!(
            loaded.origin(setting.key),
            Some(&Origin::Default),
            "{}",
            setting.key
        );
    }
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let path = env::temp_dir().join(format!("candor-{}-precedence.toml", process::id()));
    fs::write(
        &path,
        "[limits]\nn = 1\nprompts = 1\nlogprobs = 1\n[model]\naliases = ['a', 'b']",
    )
    .unwrap();
    let loaded = Config::load(&Sources {
        file: Some(path.clone()),
        environment: environment(&[
            ("CANDOR_LIMITS__PROMPTS", "2"),
            ("CANDOR_LIMITS__LOGPROBS", "2"),
        ]),
        flags: vec![set("limits.logprobs", "2"), set("limits.logprobs", "3")],
    });
    fs::remove_file(&path).unwrap();
    let loaded = loaded.unwrap();

    let limits = &loaded.config.limits;
    assert_eq!(
        [
            limits.stop_strings,
            limits.n,
            limits.prompts,
            limits.logprobs
        ],
        [16, 1, 2, 3]
    );
    assert_eq!(loaded.config.model.aliases, ["a", "b"]);
    let origin = |key| loaded.origin(key).unwrap().clone();
    assert_eq!(origin("limits.stop_strings"), Origin::Default);
    assert_eq!(origin("limits.n"), Origin::File(path));
    assert_eq!(
        origin("limits.prompts"),
        Origin::Variable("CANDOR_LIMITS__PROMPTS".to_owned())
    );
    assert_eq!(origin("limits.logprobs"), Origin::Flag("--set".to_owned()));
}

#[test]
fn variables_are_parsed_as_the_type_of_their_setting() {
    let config = from_environment(&[
        ("CANDOR_MODEL__SOURCE", "007"),
        ("CANDOR_MODEL__ALIASES", "[\"a,b\", \"c\"]"),
        ("CANDOR_SERVER__API_KEYS", "one, two"),
        ("CANDOR_SERVER__PORT", " 81 "),
        ("CANDOR_ENGINE__FLASH_ATTENTION", "true"),
        ("CANDOR_SAMPLING__TEMPERATURE", "1"),
        ("CANDOR_SAMPLING__FREQUENCY_PENALTY", "-5e-1"),
    ])
    .unwrap()
    .config;
    assert_eq!(config.model.source, "007");
    assert_eq!(config.model.aliases, ["a,b", "c"]);
    assert_eq!(config.server.api_keys, ["one", "two"]);
    assert_eq!(config.server.port, 81);
    assert!(config.engine.flash_attention);
    assert_eq!(config.sampling.values.temperature, 1.0);
    assert_eq!(config.sampling.values.frequency_penalty, -0.5);

    let config = from_environment(&[("CANDOR_SERVER__API_KEYS", "")])
        .unwrap()
        .config;
    assert_eq!(config.server.api_keys, Vec::<String>::new());
}

#[test]
fn only_known_variables_that_are_not_settings_are_ignored() {
    let ignored = [
        ("HOME", "/"),
        ("CANDOR_CONFIG", "x"),
        ("CANDOR_LOG", "debug"),
        ("CANDOR_URL", "http://127.0.0.1:8000"),
        ("CANDOR_TEST_MODELS", "x"),
        // What Kubernetes sets next to a service named `candor`.
        ("CANDOR_SERVICE_HOST", "10.0.0.1"),
        ("CANDOR_SERVICE_PORT_HTTP", "8000"),
        ("CANDOR_PORT", "tcp://10.0.0.1:8000"),
        ("CANDOR_PORT_8000_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(
        from_environment(&ignored).unwrap().config,
        Config::default()
    );
    assert_eq!(
        message(from_environment(&[("CANDOR_PORT", "8000")])),
        "Unknown setting CANDOR_PORT (environment variable CANDOR_PORT). Did you mean CANDOR_SERVER__PORT?"
    );
    assert_eq!(
        message(from_environment(&[("CANDOR_SERVER_HOST", "::")])),
        "Unknown setting CANDOR_SERVER_HOST (environment variable CANDOR_SERVER_HOST). Did you mean CANDOR_SERVER__HOST?"
    );
    assert_eq!(
        message(from_environment(&[("CANDOR_MODEL__PATH", "x")])),
        "Unknown setting CANDOR_MODEL__PATH (environment variable CANDOR_MODEL__PATH). Expected one of CANDOR_MODEL__SOURCE, \
         CANDOR_MODEL__NAME, CANDOR_MODEL__ALIASES, CANDOR_MODEL__LOAD, CANDOR_MODEL__UNLOAD_AFTER_MS, CANDOR_MODEL__GPU_LAYERS, CANDOR_MODEL__MMAP, CANDOR_MODEL__CHAT_TEMPLATE_FILE, CANDOR_MODEL__REASONING_FORMAT, CANDOR_MODEL__CHAT_PARSE_SPECIAL, CANDOR_MODEL__NORMALIZE, CANDOR_MODEL__LORA, CANDOR_MODEL__CACHE_DIR."
    );
}

#[test]
fn values_out_of_bounds_are_refused_with_the_bounds() {
    for (key, value, expected) in [
        (
            "server.port",
            "65536",
            "server.port is 65536 (flag --set). Allowed: a whole number from 0 to 65535.",
        ),
        (
            "server.port",
            "http",
            "server.port is \"http\" (flag --set). Allowed: a whole number from 0 to 65535.",
        ),
        (
            "server.port",
            "",
            "server.port is \"\" (flag --set). Allowed: a whole number from 0 to 65535.",
        ),
        (
            "server.host",
            " ",
            "server.host is \" \" (flag --set). Allowed: text, not empty.",
        ),
        (
            "limits.n",
            "1.5",
            "limits.n is \"1.5\" (flag --set). Allowed: a whole number from 1 to 1024.",
        ),
        (
            "sampling.top_p",
            "-0.1",
            "sampling.top_p is -0.1 (flag --set). Allowed: a number from 0 to 1.",
        ),
        (
            "sampling.top_p",
            "nan",
            "sampling.top_p is nan (flag --set). Allowed: a number from 0 to 1.",
        ),
        (
            "sampling.temperature",
            "inf",
            "sampling.temperature is inf (flag --set). Allowed: a number from 0 to 100.",
        ),
        (
            "engine.flash_attention",
            "on",
            "engine.flash_attention is \"on\" (flag --set). Allowed: true or false.",
        ),
        (
            "engine.mode",
            "fast",
            "engine.mode is \"fast\" (flag --set). Allowed: one of auto, exact, invariant, throughput.",
        ),
        (
            "model.aliases",
            "a,,b",
            "model.aliases is [\"a\", \"\", \"b\"] (flag --set). Allowed: a list of texts, none empty.",
        ),
        (
            "limits.m",
            "1",
            "Unknown setting limits.m (flag --set). Expected one of limits.body_bytes, limits.header_bytes, \
          limits.connections, limits.connections_per_address, limits.header_timeout_ms, limits.body_timeout_ms, limits.write_timeout_ms, \
          limits.requests_per_key, limits.requests_per_address, limits.prompt_tokens, limits.prompts, limits.n, limits.logprobs, limits.answer_entries, limits.logits_bytes, limits.fork_answers, limits.fork_tokens, limits.stop_strings, limits.stop_bytes, limits.logit_bias, \
          limits.grammar_bytes, limits.queue_length, limits.queue_timeout_ms, limits.loaded_models.",
        ),
        (
            "port",
            "1",
            "Unknown setting port (flag --set). Did you mean server.port?",
        ),
        (
            "colour",
            "1",
            "Unknown setting colour (flag --set). Settings are written section.field, and the sections are \
          server, model, engine, embeddings, limits, sampling; `candor config` lists all settings.",
        ),
    ] {
        let loaded = Config::load(&Sources {
            flags: vec![set(key, value)],
            ..Sources::default()
        });
        assert_eq!(message(loaded), expected, "{key}={value}");
    }
}

#[test]
fn a_file_is_refused_for_all_its_mistakes_at_once() {
    assert_eq!(
        message(from_file(
            "mistakes",
            "port = 1\n[server]\nhots = ''\nport = '80'\n[sampling]\ntop_k = 4.5\n[server.tls]\n"
        )),
        "Unknown setting port (file mistakes.toml). Did you mean server.port?\n\
         Unknown setting server.hots (file mistakes.toml). Expected one of server.host, server.port, server.api_keys, \
         server.api_keys_file, server.metrics_need_key, server.allowed_hosts, server.cors_origins, \
         server.tls_certificate, server.tls_key, server.drain_ms, server.shutdown_grace_ms, server.unknown_fields, \
         server.log_format.\n\
         Unknown setting server.tls (file mistakes.toml). Expected one of server.host, server.port, server.api_keys, \
         server.api_keys_file, server.metrics_need_key, server.allowed_hosts, server.cors_origins, \
         server.tls_certificate, server.tls_key, server.drain_ms, server.shutdown_grace_ms, server.unknown_fields, \
         server.log_format.\n\
         server.port is \"80\" (file mistakes.toml). Allowed: a whole number from 0 to 65535.\n\
         sampling.top_k is 4.5 (file mistakes.toml). Allowed: a whole number from -1 to 2147483647."
    );
}

#[test]
fn a_file_that_is_not_toml_or_does_not_exist_is_named() {
    let error = message(from_file("broken", "[server\nport = 1"));
    assert!(
        error.starts_with(
            "The settings file broken.toml is not valid TOML: TOML parse error at line 1"
        ),
        "{error}"
    );
    let file = Some(PathBuf::from("/nowhere/candor.toml"));
    let error = message(Config::load(&Sources {
        file,
        ..Sources::default()
    }));
    assert!(
        error.starts_with("Cannot read the settings file /nowhere/candor.toml: No such file"),
        "{error}"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let error = message(from_environment(&[("CANDOR_ENGINE__KV_TYPE_V", "q8_0")]));
    assert!(
        error.starts_with("engine.kv_type_v = \"q8_0\" needs engine.flash_attention = true"),
        "{error}"
    );
    from_environment(&[
        ("CANDOR_ENGINE__KV_TYPE_V", "q8_0"),
        ("CANDOR_ENGINE__FLASH_ATTENTION", "true"),
    ])
    .unwrap();
    let pins = |number| from_environment(&[("CANDOR_ENGINE__PINNED_PREFIXES", number)]);
    let error = message(pins("3"));
    assert!(
        error.starts_with("engine.pinned_prefixes is above engine.cache_lanes"),
        "{error}"
    );
    pins("2").unwrap();
}

#[test]
fn keys_are_never_shown_and_the_stars_shown_instead_are_no_key() {
    let loaded = from_environment(&[("CANDOR_SERVER__API_KEYS", "secret,other")]).unwrap();
    assert!(loaded.to_toml().contains("api_keys = [\"***\", \"***\"]"));
    assert!(!loaded.to_toml().contains("secret"));
    for wrong in ["secret word", "secret,", "***"] {
        let error = message(from_environment(&[("CANDOR_SERVER__API_KEYS", wrong)]));
        assert!(error.starts_with("server.api_keys is [\"***\""), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_printed_settings_have_their_origins_and_load_again() {
    let loaded = from_environment(&[
        ("CANDOR_SAMPLING__TEMPERATURE", "1"),
        ("CANDOR_MODEL__SOURCE", "a \"b\".gguf"),
    ])
    .unwrap();
    let printed = loaded.to_toml();
    assert!(
        printed.starts_with(
            "[server]\nhost = \"127.0.0.1\"                       # default\nport = 8000"
        ),
        "{printed}"
    );
    assert!(
        printed.contains("temperature = 1.0                        # environment variable CANDOR_SAMPLING__TEMPERATURE\n"),
        "{printed}"
    );
    assert_eq!(
        from_file("printed", &printed).unwrap().config,
        loaded.config
    );
}

#[test]
fn the_settings_of_the_reference_server_load() {
    let config = from_file(
        "reference",
        include_str!("../../config/llama-cpp-python-server.toml"),
    )
    .unwrap()
    .config;
    let mut expected = Config::default();
    expected.server.unknown_fields = UnknownFields::Warn;
    expected.sampling.values.repeat_penalty = 1.1;
    assert_eq!(config, expected);
}

/// `section.field` and the comment above it, for each setting of `config/default.toml`, in its order.
fn documented() -> Vec<(String, String)> {
    let (mut section, mut comment, mut settings) = (String::new(), String::new(), Vec::new());
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            } else if let Some((field, _)) = line.split_once(" = ") {
                settings.push((format!("{section}.{field}"), comment.clone()));
            }
            comment.clear();
        }
    }
    settings
}

#[test]
fn every_setting_has_a_comment_with_its_meaning_bounds_and_variable() {
    let documented = documented();
    let keys: Vec<&str> = documented.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        SETTINGS
            .iter()
            .map(|setting| setting.key)
            .collect::<Vec<_>>()
    );
    for (setting, (key, comment)) in SETTINGS.iter().zip(&documented) {
        let last_line = format!(" Allowed: {}. {}", setting.allowed, setting.variable());
        let meaning = comment
            .strip_suffix(&last_line)
            .unwrap_or_else(|| panic!("{key}: {comment}"));
        assert!(
            meaning.trim().ends_with('.') && meaning.len() > 15,
            "{key}: {comment}"
        );
    }
}

#[test]
fn the_types_hold_all_that_is_allowed_and_every_word_differs() {
    // GPU layers need another build.
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.key != "model.gpu_layers")
    {
        let values = match setting.allowed {
            Allowed::Integer(min, max) | Allowed::Multiple(_, min, max) => {
                vec![min.to_string(), max.to_string()]
            }
            Allowed::Number(min, max) => vec![min.to_string(), max.to_string()],
            Allowed::Boolean => vec!["true".to_owned(), "false".to_owned()],
            Allowed::OneOf(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            Allowed::Text | Allowed::TextOrEmpty | Allowed::Names | Allowed::Keys => continue,
        };
        let mut configs = Vec::new();
        for value in values {
            // What some values need: flash attention for quantized ones, lanes for pinned prefixes, a name for models that
            // are loaded on first use.
            let flags = vec![
                set("engine.flash_attention", "true"),
                set("engine.cache_lanes", "64"),
                set("model.name", "a"),
                set(setting.key, &value),
            ];
            let loaded = Config::load(&Sources {
                flags,
                ..Sources::default()
            });
            let config = loaded
                .unwrap_or_else(|error| panic!("{} = {value}: {error}", setting.key))
                .config;
            assert!(!configs.contains(&config), "{} = {value}", setting.key);
            configs.push(config);
        }
    }
}

#[test]
fn keys_come_from_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let load = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let path = path.to_string_lossy().into_owned();
        from_environment(&[
            ("CANDOR_SERVER__API_KEYS_FILE", path.as_str()),
            ("CANDOR_SERVER__API_KEYS", "one"),
        ])
    };
    let loaded = load("# of the team\n\n two \nthree\n").unwrap();
    assert_eq!(loaded.config.server.api_keys, ["one", "two", "three"]);
    assert!(!loaded.to_toml().contains("two") && !loaded.to_toml().contains("three"));
    for wrong in ["", "# none\n", "with space\n", "***\n", "ümlaut\n"] {
        let error = message(load(wrong));
        assert!(error.contains("at least one key, one per line"), "{error}");
        assert!(!error.contains("with space"), "{error}");
    }
    let missing = [("CANDOR_SERVER__API_KEYS_FILE", "/nowhere/keys")];
    let error = message(from_environment(&missing));
    assert!(
        error.starts_with("Cannot read the file of server.api_keys_file, /nowhere/keys"),
        "{error}"
    );
}

#[test]
fn tls_needs_both_files() {
    let error = message(from_environment(&[("CANDOR_SERVER__TLS_KEY", "key.pem")]));
    assert!(error.contains("set both, or none"), "{error}");
}

const SEVERAL: &str = "\
[model]
mmap = true
[engine]
context_length = 4096
cache_lanes = 1
[[models]]
source = 'a/small.gguf'
[[models]]
source = 'hf:ORG/REPO:Q4_K_M'
name = 'large'
aliases = ['gpt', 'large']
load = 'first-use'
unload_after_ms = 1000
mmap = false
engine = { context_length = 8192, kv_type_v = 'q8_0', flash_attention = true }
[models.sampling]
temperature = 1
";

#[test]
fn tables_of_models_override_the_sections() {
    let loaded = from_file("several", SEVERAL).unwrap();
    let [small, large] = loaded.config.of_each_model() else {
        panic!("{:?}", loaded.config.models)
    };
    assert_eq!(small.model.source, "a/small.gguf");
    assert_eq!(small.model.names(), ["small"]);
    assert_eq!(large.model.names(), ["large", "gpt"]);
    let of = |one: &Config| {
        let Config {
            model,
            engine,
            sampling,
            ..
        } = one;
        (
            (model.load, model.unload_after_ms, model.mmap),
            (
                engine.context_length,
                engine.cache_lanes,
                engine.flash_attention,
            ),
            sampling.values.temperature,
        )
    };
    assert_eq!(of(small), ((LoadAt::Start, 0, true), (4096, 1, false), 0.8));
    assert_eq!(
        of(large),
        ((LoadAt::FirstUse, 1000, false), (8192, 1, true), 1.0)
    );

    // Without tables it is the one of the sections.
    let one = Config::default();
    assert_eq!(one.of_each_model(), [Config::default()]);
    assert_eq!(one.model.names(), [""; 0]);

    let printed = loaded.to_toml();
    let tables = printed.split_once("\n[[models]]\n").unwrap().1;
    assert_eq!(
        tables.replace(
            &format!("{}/candor-{}-", env::temp_dir().display(), process::id()),
            ""
        ),
        "source = \"a/small.gguf\"                  # file several.toml\n\
         \n\
         [[models]]\n\
         source = \"hf:ORG/REPO:Q4_K_M\"            # file several.toml\n\
         name = \"large\"                           # file several.toml\n\
         aliases = [\"gpt\", \"large\"]               # file several.toml\n\
         load = \"first-use\"                       # file several.toml\n\
         unload_after_ms = 1000                   # file several.toml\n\
         mmap = false                             # file several.toml\n\
         [models.engine]\n\
         context_length = 8192                    # file several.toml\n\
         flash_attention = true                   # file several.toml\n\
         kv_type_v = \"q8_0\"                       # file several.toml\n\
         [models.sampling]\n\
         temperature = 1.0                        # file several.toml\n"
    );
    assert!(!printed.contains("source = \"default\""), "{printed}");
    assert_eq!(from_file("again", &printed).unwrap().config, loaded.config);
}

#[test]
fn a_problem_in_a_table_names_the_table() {
    let there = "models[0].source, models[0].name, models[0].aliases, models[0].load, models[0].unload_after_ms, \
                 models[0].gpu_layers, models[0].mmap, models[0].chat_template_file, models[0].reasoning_format, models[0].chat_parse_special, models[0].normalize, models[0].lora, models[0].cache_dir, models[0].engine, models[0].embeddings, \
                 models[0].sampling";
    let check = |text: &str, expect: &str| {
        assert_eq!(message(from_file("wrong", text)), expect, "{text}");
    };
    check(
        "models = 3",
        "models is 3 (file wrong.toml). Allowed: a table for each model, written [[models]].",
    );
    check(
        "models = ['a.gguf']",
        "models[0] is \"a.gguf\" (file wrong.toml). Allowed: a table for each model, written [[models]].",
    );
    check(
        "[[models]]\nname = 'a'",
        "models[0] has no source (file wrong.toml): set models[0].source to the model it serves.",
    );
    check(
        "[[models]]\nsource = 'a'\n[[models]]\nsource = ''\nmmap = 1\nengine.context_length = 7",
        "models[1].engine.context_length is 7 (file wrong.toml). Allowed: a whole number from 16 to 1048576.\n\
         models[1].mmap is 1 (file wrong.toml). Allowed: true or false.\n\
         models[1].source is \"\" (file wrong.toml). Allowed: text, not empty.",
    );
    check(
        "[[models]]\nsource = 'a'\ncontext_length = 1000",
        "Unknown setting models[0].context_length (file wrong.toml). Did you mean models[0].engine.context_length?",
    );
    check(
        "[[models]]\nsource = 'a'\ncolour = 1\n'engine.mode' = 'exact'",
        &format!(
            "Unknown setting models[0].colour (file wrong.toml). Expected one of {there}.\n\
             Unknown setting models[0].engine.mode (file wrong.toml). Did you mean models[0].engine.mode?"
        ),
    );
    check(
        "[[models]]\nsource = 'a'\nlimits.n = 1",
        &format!("Unknown setting models[0].limits (file wrong.toml). Expected one of {there}."),
    );
    let sampling = SETTINGS.iter().filter(|it| it.key.starts_with("sampling."));
    let sampling: Vec<String> = sampling.map(|it| format!("models[0].{}", it.key)).collect();
    check(
        "[[models]]\nsource = 'a'\nengine = 1\nsampling.top = 1",
        &format!(
            "Unknown setting models[0].engine (file wrong.toml). Expected one of {there}.\n\
             Unknown setting models[0].sampling.top (file wrong.toml). Expected one of {}.",
            sampling.join(", ")
        ),
    );
    check(
        "[[models]]\nsource = 'a'\nengine.kv_type_v = 'q8_0'",
        "models[0]: engine.kv_type_v = \"q8_0\" needs engine.flash_attention = true: llama.cpp cannot read quantized \
         values without it.",
    );
}

#[test]
fn models_need_names_that_differ() {
    let check = |text: &str, expect: &str| {
        assert_eq!(message(from_file("names", text)), expect, "{text}");
    };
    check(
        "[[models]]\nsource = 'x/a.gguf'\n[[models]]\nsource = 'b'\nname = 'c'\naliases = ['a']",
        "models[0] and models[1] have the same name, \"a\": rename one of them.",
    );
    check(
        "[[models]]\nsource = 'hf:ORG/REPO'\n[[models]]\nsource = 'default'\naliases = ['a']",
        "models[0] needs a name: only models given by a path are named after their file.",
    );
    check(
        "[model]\nload = 'first-use'",
        "model.load = \"first-use\" needs model.name: requests must have a name to ask for.",
    );
    check(
        "[model]\nname = 'a'\n[[models]]\nsource = 'b'",
        "model.name is set (file names.toml), but with [[models]] each table sets its own; [model] is for shared defaults.",
    );
    check(
        "[limits]\nloaded_models = 1\n[[models]]\nsource = 'a'\n[[models]]\nsource = 'b'",
        "limits.loaded_models is 1, but 2 models are to be loaded at startup: set load = \"first-use\" for some of them.",
    );
    from_file(
        "first-use",
        "[model]\nsource = 'a.gguf'\nload = 'first-use'",
    )
    .unwrap();
}

#[test]
fn a_model_given_with_a_flag_or_variable_is_served_alone() {
    let path = env::temp_dir().join(format!("candor-{}-alone.toml", process::id()));
    fs::write(&path, SEVERAL).unwrap();
    let load = |flags, variables| {
        Config::load(&Sources {
            file: Some(path.clone()),
            environment: environment(variables),
            flags,
        })
    };
    let loaded = load(vec![set("model.source", "b.gguf")], &[]).unwrap();
    assert_eq!(
        loaded.config.of_each_model(),
        std::slice::from_ref(&loaded.config)
    );
    assert_eq!(loaded.config.model.source, "b.gguf");
    assert!(!loaded.to_toml().contains("[[models]]"));
    let loaded = load(vec![], &[("CANDOR_MODEL__SOURCE", "b.gguf")]).unwrap();
    assert!(loaded.config.models.is_empty());
    // Other flags and variables apply to the tables that do not override them.
    let flags = vec![
        set("engine.context_length", "1024"),
        set("engine.cache_lanes", "7"),
    ];
    let loaded = load(flags, &[("CANDOR_SERVER__API_KEYS", "secret")]).unwrap();
    let lengths = loaded
        .config
        .models
        .iter()
        .map(|one| (one.engine.context_length, one.engine.cache_lanes));
    assert_eq!(lengths.collect::<Vec<_>>(), [(1024, 7), (8192, 7)]);
    assert!(
        loaded
            .config
            .models
            .iter()
            .all(|one| one.server.api_keys == ["secret"])
    );
    let error = message(load(vec![set("model.aliases", "x")], &[]));
    fs::remove_file(&path).unwrap();
    assert_eq!(
        error,
        "model.aliases is set (flag --set), but with [[models]] each table sets its own; [model] is for shared defaults."
    );
}

#[test]
fn the_example_of_several_models_loads() {
    let config = from_file("example", include_str!("../../config/several-models.toml"))
        .unwrap()
        .config;
    let names: Vec<_> = config
        .models
        .iter()
        .flat_map(|one| one.model.names())
        .collect();
    assert_eq!(names, ["small", "gpt-3.5-turbo-instruct", "large"]);
}
