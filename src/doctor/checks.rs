//! The finding of each check, from facts that are already collected.

use std::fmt;
use std::io;

use indicatif::HumanBytes;

use crate::config::{self, Use};
use crate::engine::Verdict;
use crate::model::source::Remote;
use crate::model::{self, Device, Routines};

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Ok,
    /// A server works, but slower than it could, or not reliably.
    Warning,
    /// A server does not start, or fails early.
    Error,
}

/// What a check found, and how to fix a warning or an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding(pub Outcome, pub String);

impl Finding {
    pub fn ok(text: impl Into<String>) -> Self {
        Self(Outcome::Ok, text.into())
    }

    /// For a message that already says how to fix it.
    pub fn error(text: impl fmt::Display) -> Self {
        Self(Outcome::Error, text.to_string())
    }

    pub fn warn(self, advice: impl fmt::Display) -> Self {
        Self(Outcome::Warning, format!("{}. {advice}", self.1))
    }

    pub fn fail(self, advice: impl fmt::Display) -> Self {
        Self(Outcome::Error, format!("{}. {advice}", self.1))
    }
}

/// Where a model is.
pub enum File {
    Local(FileFacts),
    Remote(Remote),
}

/// Facts about a model's file.
#[derive(Clone, Default)]
pub struct FileFacts {
    pub path: String,
    pub verified: bool,
    pub bytes: u64,
    pub fingerprint: String,
    /// `None`: its header cannot be read.
    pub description: Option<String>,
    /// The tensor types of its matrices, by ggml's numbers.
    pub kinds: Vec<u32>,
    /// Minimum bytes of its KV cache, if its metadata says so.
    pub kv_cache: Option<u64>,
}

/// Memory of the models loaded at startup, as far as it is known. Layers on a GPU are in its own memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct MemoryNeed {
    /// Weights read into memory.
    pub read: u64,
    /// Mapped weights, which the system drops when memory is short.
    pub mapped: u64,
    /// At least this much.
    pub kv_cache: u64,
}

/// From Linux's description of the CPU and llama.cpp's of its build.
pub fn cpu(cpuinfo: &str, cores: usize, system_info: &str) -> Finding {
    /// Linux's flags, and llama.cpp's name of its code for them.
    const FEATURES: [(&[&str], &str); 6] = [
        (&["avx2", "fma"], "AVX2"),
        (&["avx512f", "avx512bw", "avx512dq", "avx512vl"], "AVX512"),
        (&["avx512_vnni"], "AVX512_VNNI"),
        (&["amx_tile", "amx_int8"], "AMX_INT8"),
        (&["asimddp"], "DOTPROD"),
        (&["i8mm"], "MATMUL_INT8"),
    ];
    let field = |names: [&str; 2]| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(name, _)| names.contains(&name.trim()));
        found.map(|(_, value)| value.trim())
    };
    let name = field(["model name", "Model"]).unwrap_or(std::env::consts::ARCH);
    let has = field(["flags", "Features"]).unwrap_or_default();
    let has: Vec<&str> = has.split_ascii_whitespace().collect();
    let unused: Vec<&str> = FEATURES
        .iter()
        .filter(|(needed, feature)| {
            needed.iter().all(|flag| has.contains(flag))
                && !model::has_feature(system_info, feature)
        })
        .map(|(_, feature)| *feature)
        .collect();
    let instructions = model::instructions(system_info);
    let found = Finding::ok(format!(
        "{name}; usable cores: {cores}; instructions: {instructions}"
    ));
    if unused.is_empty() {
        return found;
    }
    let compiler = match unused.contains(&"AMX_INT8") {
        true => "; AMX needs GCC 11 or Clang 16, or newer",
        false => "",
    };
    found.warn(format!(
        "This CPU has {}, which this build does not use. Build on this machine with `make build`{compiler}.",
        unused.join(", ")
    ))
}

/// `here`: the routines of this CPU and build.
pub fn routines(
    here: Routines,
    settings: &config::Engine,
    verdict: &Verdict,
    about: &str,
) -> Finding {
    let one = |name: &str, is_here: bool, setting: Use| {
        let refused = verdict.refused.iter().find(|it| it.routine == name);
        match (setting, is_here, refused) {
            (Use::Off, ..) => format!("{name} is off (engine.{name})"),
            (_, false, _) => format!("{name} is not available on this CPU or in this build"),
            (_, _, Some(refused)) => format!("{name} is not used, because it {}", refused.why),
            (_, _, None) => format!("{name} is on"),
        }
    };
    let amx = one("amx", here.amx, settings.amx);
    let repack = one("repack", here.repack, settings.repack);
    let found = Finding::ok(format!("{amx}; {repack}; tried with {about}"));
    if verdict.bits.is_none() {
        return found.warn("The trial had no result: CANDOR_LOG=warn shows why.");
    }
    match &verdict.refused[..] {
        [] => found,
        [refused, ..] => found.warn(format!(
            "Answers are correct, but slower. Build with another compiler, or turn it off: --set engine.{}=off.",
            refused.routine
        )),
    }
}

pub fn memory(total: Option<u64>, available: Option<u64>, need: MemoryNeed) -> Finding {
    const LESS_CACHE: &str = "Lower --context-length, --parallel-sequences or engine.cache_lanes";
    let (Some(total), Some(available)) = (total, available) else {
        return Finding::ok("the system does not report how much is available");
    };
    let weights = need.read + need.mapped;
    let mut text = format!(
        "{} of {} available",
        HumanBytes(available),
        HumanBytes(total)
    );
    if weights > 0 {
        text += &format!("; the weights take {}", HumanBytes(weights));
    }
    if need.kv_cache > 0 {
        text += &format!("; the KV cache takes {} or more", HumanBytes(need.kv_cache));
    }
    let found = Finding::ok(text);
    if need.read > available {
        found.fail(
            "The weights do not fit. Use a smaller model or quantization, or --set model.mmap=true, which is slower.",
        )
    } else if need.kv_cache > available {
        found.fail(format!("The cache does not fit. {LESS_CACHE}."))
    } else if weights + need.kv_cache > available {
        found.warn(format!(
            "Both together may not fit. {LESS_CACHE}, or use a smaller model."
        ))
    } else {
        found
    }
}

/// From a line like `always [madvise] never`.
pub fn huge_pages(enabled: Option<String>) -> Finding {
    let text = enabled.unwrap_or_default();
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match chosen {
        Some(("never", _)) => Finding::ok("never").warn(
            "Weights may stay on small pages, which makes decodes up to 10% slower. As root: \
             echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some((chosen, _)) => Finding::ok(chosen),
        None => Finding::ok("unknown: the system does not report it"),
    }
}

/// `threads`: the setting.
pub fn threads(threads: usize, cores: usize, free: usize) -> Finding {
    let found = Finding::ok(match threads {
        0 => format!("one for each free core, now {free} of {cores}"),
        fixed => format!("{fixed} (engine.threads); free cores: {free} of {cores}"),
    });
    let wanted = if threads == 0 { cores } else { threads };
    if threads > cores {
        found.warn(
            "With more threads than cores, threads wait for each other. Lower engine.threads, or set it to 0.",
        )
    } else if free < wanted {
        found.warn("Other processes use the other cores, so decodes are slower. Stop them, or measure later.")
    } else {
        found
    }
}

/// `running`: the address of a Candor server on this port.
pub fn port(
    server: &config::Server,
    listening: io::Result<()>,
    running: Option<String>,
) -> Finding {
    let config::Server { host, port, .. } = server;
    match (listening, running) {
        (Ok(()), _) if *port == 0 => Finding::ok(format!("{host}, any free port")),
        (Ok(()), _) => Finding::ok(format!("{host}, port {port} is free")),
        (Err(_), Some(url)) => Finding::ok(format!("a Candor server already runs here: {url}"))
            .warn("Use it, stop it, or choose another port with --port."),
        (Err(error), None) => Finding::error(crate::cannot_listen(host, *port, &error)),
    }
}

pub fn model(file: &Result<File, String>) -> Finding {
    match file {
        Err(error) => Finding::error(error),
        Ok(File::Remote(remote)) => {
            let size = remote.bytes.map(HumanBytes);
            let size = size.map_or_else(String::new, |size| format!(" ({size})"));
            let Remote { what, from, .. } = remote;
            match &remote.broken {
                None => Finding::ok(format!(
                    "not downloaded yet; the server or `candor fetch` downloads it from {from}: {what}{size}"
                )),
                Some(reason) => Finding::ok(format!("the cached {what} is broken ({reason})"))
                    .warn(format!(
                        "The server or `candor fetch` downloads it again from {from}{size}."
                    )),
            }
        }
        Ok(File::Local(facts)) => {
            let FileFacts {
                path, fingerprint, ..
            } = facts;
            let bytes = HumanBytes(facts.bytes);
            let verified = if facts.verified { "; verified" } else { "" };
            match &facts.description {
                Some(description) => Finding::ok(format!(
                    "{path}: {description}, {bytes}; fingerprint {fingerprint}{verified}"
                )),
                None => Finding::ok(format!("{path}: {bytes}; its header cannot be read"))
                    .warn("llama.cpp may not load it. Download or convert it again."),
            }
        }
    }
}

/// In a build without a GPU back end, the settings refuse layers on a GPU.
pub fn gpu(features: &[&str], devices: &[Device], gpu_layers: u32) -> Finding {
    if features.is_empty() {
        return Finding::ok("built without a GPU back end");
    }
    let gpus = devices.iter().filter(|device| device.is_gpu);
    let gpus: Vec<String> = gpus
        .map(|gpu| {
            let memory = HumanBytes(gpu.memory_bytes);
            format!("{} ({}, {memory})", gpu.name, gpu.description)
        })
        .collect();
    let built = features.join(", ");
    let layers = format!("model.gpu_layers is {gpu_layers}");
    match &gpus[..] {
        [] => {
            let finding = Finding::ok(format!("built with {built}; {layers}; no GPU found"));
            let advice = "Check the driver, and this user's permissions for the device.";
            match gpu_layers {
                0 => finding.warn(advice),
                _ => finding.fail(advice),
            }
        }
        gpus => Finding::ok(format!("built with {built}; {layers}; {}", gpus.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::Refused;

    const GIB: u64 = 1 << 30;

    /// Compares the outcome, and looks for each of the words.
    fn assert_is(Finding(outcome, text): Finding, expect: Outcome, words: &[&str]) {
        assert_eq!(outcome, expect, "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn instructions_that_the_build_does_not_use_are_named() {
        let check = |flags: &str, system_info: &str, outcome, words: &[&str]| {
            let cpuinfo = format!("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n");
            assert_is(cpu(&cpuinfo, 4, system_info), outcome, words);
        };
        let avx2 = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | REPACK = 1 | ";
        check(
            "avx avx2 fma",
            avx2,
            Outcome::Ok,
            &["Some CPU", "4", "avx2"],
        );
        check(
            "avx avx2 fma",
            "CPU : SSE3 = 1 | ",
            Outcome::Warning,
            &["sse", "has AVX2,", "make build"],
        );
        let all = "avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni";
        check(
            all,
            avx2,
            Outcome::Warning,
            &["has AVX512, AVX512_VNNI, which"],
        );
        let avx512 = "CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | ";
        check(all, avx512, Outcome::Ok, &["avx512"]);
        let amx = format!("{all} amx_bf16 amx_tile amx_int8");
        check(
            &amx,
            avx512,
            Outcome::Warning,
            &["AMX_INT8", "GCC 11", "Clang 16"],
        );
        check(&amx, &format!("{avx512}AMX_INT8 = 1"), Outcome::Ok, &[]);
        let arm = "Features\t: fp asimd asimddp i8mm\n";
        assert_is(
            cpu(arm, 4, "CPU : NEON = 1 | DOTPROD = 1"),
            Outcome::Warning,
            &["MATMUL_INT8"],
        );
        // On other systems there is no description.
        assert_is(cpu("", 4, avx2), Outcome::Ok, &[std::env::consts::ARCH]);
    }

    #[test]
    fn routines_are_on_off_refused_or_unavailable() {
        let check =
            |here: [bool; 2], off: bool, refused: &[&str], bits: bool, outcome, words: &[&str]| {
                let mut settings = Config::default().engine;
                if off {
                    settings.repack = Use::Off;
                }
                let [amx, repack] = here;
                let refused = refused.iter().map(|&routine| Refused {
                    routine: routine.to_owned(),
                    why: "ends the process (SIGSEGV)".to_owned(),
                });
                let verdict = Verdict {
                    routines: Routines::ALL,
                    refused: refused.collect(),
                    bits: bits.then(String::new),
                };
                let here = Routines { amx, repack };
                assert_is(
                    routines(here, &settings, &verdict, "weights"),
                    outcome,
                    words,
                );
            };
        check(
            [true, true],
            false,
            &[],
            true,
            Outcome::Ok,
            &["amx is on; repack is on; tried with weights"],
        );
        check(
            [false, true],
            false,
            &[],
            true,
            Outcome::Ok,
            &["amx is not available on this CPU or in this build"],
        );
        check(
            [true, true],
            true,
            &[],
            true,
            Outcome::Ok,
            &["repack is off (engine.repack)"],
        );
        check(
            [true, true],
            false,
            &["amx"],
            true,
            Outcome::Warning,
            &[
                "amx is not used, because it ends the process (SIGSEGV); repack is on",
                "engine.amx=off",
            ],
        );
        check(
            [true, true],
            false,
            &[],
            false,
            Outcome::Warning,
            &["no result"],
        );
    }

    #[test]
    fn models_that_certainly_do_not_fit_into_memory_are_an_error() {
        let check = |read, mapped, kv_cache, outcome, words: &[&str]| {
            let need = MemoryNeed {
                read,
                mapped,
                kv_cache,
            };
            assert_is(memory(Some(8 * GIB), Some(4 * GIB), need), outcome, words);
        };
        check(0, 0, 0, Outcome::Ok, &["4.00 GiB of 8.00 GiB available"]);
        check(
            GIB,
            0,
            3 * GIB,
            Outcome::Ok,
            &["weights take 1.00 GiB", "3.00 GiB or more"],
        );
        check(
            5 * GIB,
            0,
            0,
            Outcome::Error,
            &["do not fit", "model.mmap=true"],
        );
        check(GIB, 0, 5 * GIB, Outcome::Error, &["--context-length"]);
        check(2 * GIB, 0, 3 * GIB, Outcome::Warning, &["--context-length"]);
        check(0, 5 * GIB, 0, Outcome::Warning, &["smaller model"]);
        let need = MemoryNeed {
            read: 9 * GIB,
            ..MemoryNeed::default()
        };
        assert_is(memory(None, None, need), Outcome::Ok, &["does not report"]);
    }

    #[test]
    fn huge_pages_that_are_off_are_a_warning() {
        let check = |text: Option<&str>, outcome, words: &[&str]| {
            assert_is(huge_pages(text.map(str::to_owned)), outcome, words);
        };
        check(Some("[always] madvise never\n"), Outcome::Ok, &["always"]);
        check(Some("always [madvise] never\n"), Outcome::Ok, &["madvise"]);
        check(
            Some("always madvise [never]\n"),
            Outcome::Warning,
            &["never", "echo madvise >"],
        );
        check(None, Outcome::Ok, &["unknown"]);
    }

    #[test]
    fn threads_need_free_cores() {
        let check = |setting, cores, free, outcome, words: &[&str]| {
            assert_is(threads(setting, cores, free), outcome, words);
        };
        check(0, 4, 4, Outcome::Ok, &["now 4 of 4"]);
        check(
            0,
            4,
            3,
            Outcome::Warning,
            &["now 3 of 4", "Other processes"],
        );
        check(3, 4, 3, Outcome::Ok, &["3 (engine.threads)"]);
        check(4, 4, 3, Outcome::Warning, &["Other processes"]);
        check(5, 4, 4, Outcome::Warning, &["Lower engine.threads"]);
    }

    #[test]
    fn an_unavailable_port_is_an_error_unless_candor_uses_it() {
        let check = |number: u16,
                     error: Option<io::ErrorKind>,
                     running: Option<&str>,
                     outcome,
                     words: &[&str]| {
            let mut server = Config::default().server;
            server.port = number;
            let listening = error.map_or(Ok(()), |kind| Err(kind.into()));
            assert_is(
                port(&server, listening, running.map(str::to_owned)),
                outcome,
                words,
            );
        };
        let taken = Some(io::ErrorKind::AddrInUse);
        check(
            8000,
            None,
            None,
            Outcome::Ok,
            &["127.0.0.1, port 8000 is free"],
        );
        check(0, None, None, Outcome::Ok, &["any free port"]);
        check(8000, taken, None, Outcome::Error, &["port 8000", "--port"]);
        check(
            80,
            Some(io::ErrorKind::PermissionDenied),
            None,
            Outcome::Error,
            &["1024"],
        );
        check(
            8000,
            taken,
            Some("http://127.0.0.1:8000"),
            Outcome::Warning,
            &["already runs here: http"],
        );
    }

    #[test]
    fn a_model_is_local_remote_or_missing() {
        let check = |file, outcome, words: &[&str]| assert_is(model(&file), outcome, words);
        let facts = FileFacts {
            path: "/models/m.gguf".to_owned(),
            bytes: 3 << 20,
            fingerprint: "0123456789ab".to_owned(),
            description: Some("llama, 1.5M parameters, f16".to_owned()),
            ..FileFacts::default()
        };
        check(
            Ok(File::Local(facts.clone())),
            Outcome::Ok,
            &["/models/m.gguf: llama, 1.5M parameters, f16, 3.00 MiB; fingerprint 0123456789ab"],
        );
        let verified = FileFacts {
            verified: true,
            ..facts.clone()
        };
        check(Ok(File::Local(verified)), Outcome::Ok, &["; verified"]);
        let unread = FileFacts {
            description: None,
            ..facts
        };
        check(
            Ok(File::Local(unread)),
            Outcome::Warning,
            &["cannot be read", "Download"],
        );
        let remote = |bytes, broken: Option<&str>| {
            Ok(File::Remote(Remote {
                what: "m.gguf".to_owned(),
                from: "https://index.example".to_owned(),
                bytes,
                broken: broken.map(str::to_owned),
                on_hub: false,
            }))
        };
        check(
            remote(Some(3 << 20), None),
            Outcome::Ok,
            &[
                "not downloaded yet",
                "`candor fetch`",
                "https://index.example: m.gguf (3.00 MiB)",
            ],
        );
        check(
            remote(None, Some("too short")),
            Outcome::Warning,
            &["broken (too short)"],
        );
        check(
            Err("m.gguf does not exist".to_owned()),
            Outcome::Error,
            &["does not exist"],
        );
    }

    #[test]
    fn a_build_for_gpus_needs_one() {
        let device = |name: &str, is_gpu| Device {
            name: name.to_owned(),
            description: "some device".to_owned(),
            is_gpu,
            memory_bytes: 2 * GIB,
            free_bytes: GIB,
        };
        let both = [device("CPU", false), device("CUDA0", true)];
        let check = |features: &[&str], devices: &[Device], layers, outcome, words: &[&str]| {
            assert_is(gpu(features, devices, layers), outcome, words);
        };
        check(&[], &both[..1], 0, Outcome::Ok, &["without a GPU"]);
        let advice = ["no GPU", "driver"];
        check(&["cuda"], &both[..1], 0, Outcome::Warning, &advice);
        check(&["cuda"], &both[..1], 9, Outcome::Error, &advice);
        check(
            &["cuda"],
            &both,
            9,
            Outcome::Ok,
            &[
                "built with cuda",
                "gpu_layers is 9",
                "CUDA0 (some device, 2.00 GiB)",
            ],
        );
    }
}
