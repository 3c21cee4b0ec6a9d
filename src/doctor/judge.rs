//! What the facts of each check come to: nothing is asked here.

use std::fmt;
use std::io;

use indicatif::HumanBytes;

use crate::config::{self, Use};
use crate::engine::Verdict;
use crate::model::source::Remote;
use crate::model::{self, Device, Routines};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Ok,
    /// A server runs, but slower than it could, or only for now.
    Warning,
    /// A server does not start, or ends early.
    Error,
}

/// What a check found, and for a warning or an error what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding(pub Mark, pub String);

impl Finding {
    pub fn ok(text: impl Into<String>) -> Self {
        Self(Mark::Ok, text.into())
    }

    /// For a text that says itself what to do.
    pub fn error(text: impl fmt::Display) -> Self {
        Self(Mark::Error, text.to_string())
    }

    pub fn warn(self, advice: impl fmt::Display) -> Self {
        Self(Mark::Warning, format!("{}. {advice}", self.1))
    }

    pub fn fail(self, advice: impl fmt::Display) -> Self {
        Self(Mark::Error, format!("{}. {advice}", self.1))
    }
}

/// Where a model is.
pub enum File {
    Here(Facts),
    Remote(Remote),
}

/// What a model's file says of itself.
#[derive(Clone, Default)]
pub struct Facts {
    pub path: String,
    pub verified: bool,
    pub bytes: u64,
    pub fingerprint: String,
    /// `None`: its head cannot be read.
    pub description: Option<String>,
    /// How its matrices are stored, by ggml's numbers.
    pub kinds: Vec<u32>,
    /// Bytes of its KV cache, at least, if its metadata tell.
    pub kv_cache: Option<u64>,
}

/// What the models that are loaded at the start take, as far as it is known. Layers on a GPU lie in its memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct Need {
    /// Weights that are read into memory.
    pub read: u64,
    /// Weights that are mapped, and given up when memory is wanted.
    pub mapped: u64,
    /// At least.
    pub kv_cache: u64,
}

/// From what Linux says of the CPU and llama.cpp of its build.
pub fn cpu(cpuinfo: &str, cores: usize, system_info: &str) -> Finding {
    /// What a CPU has, in Linux's words, and what llama.cpp calls its code for that.
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
        "{name}; usable cores: {cores}; llama.cpp's code: {instructions}"
    ));
    if unused.is_empty() {
        return found;
    }
    let compiler = match unused.contains(&"AMX_INT8") {
        true => "; for AMX with GCC 11 or newer, or Clang 16 or newer, as older ones leave it out",
        false => "",
    };
    found.warn(format!(
        "This CPU has {}, and this build has no code for it. Build on this machine with `make build`{compiler}.",
        unused.join(", ")
    ))
}

/// `here`: those that this CPU and build have.
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
            (_, false, _) => format!("{name} is not in this CPU or build"),
            (_, _, Some(refused)) => format!("{name} is not used, as it {}", refused.why),
            (_, _, None) => format!("{name} is on"),
        }
    };
    let amx = one("amx", here.amx, settings.amx);
    let repack = one("repack", here.repack, settings.repack);
    let found = Finding::ok(format!("{amx}; {repack}; tried with {about}"));
    if verdict.bits.is_none() {
        return found.warn("The trial gave no result: CANDOR_LOG=warn shows why.");
    }
    match &verdict.refused[..] {
        [] => found,
        [refused, ..] => found.warn(format!(
            "Answers are right, but slower. Build with another compiler, or turn it off for good: --set engine.{}=off.",
            refused.routine
        )),
    }
}

pub fn memory(total: Option<u64>, available: Option<u64>, need: Need) -> Finding {
    const LESS_CACHE: &str = "Lower --context-length, --parallel-sequences or engine.cache_lanes";
    let (Some(total), Some(available)) = (total, available) else {
        return Finding::ok("the system does not say what is available");
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
            "The weights do not fit. Use a smaller model or quantisation, or --set model.mmap=true, which is slower.",
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
            "Weights may stay on small pages, which makes decodes up to a tenth slower. As root: \
             echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some((chosen, _)) => Finding::ok(chosen),
        None => Finding::ok("not known: the system does not say"),
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
            "More threads than cores wait for each other. Lower engine.threads, or set it to 0.",
        )
    } else if free < wanted {
        found.warn("Other processes keep the rest busy, so decodes are slower. Stop them, or measure later.")
    } else {
        found
    }
}

/// `running`: the address of the Candor that has the port.
pub fn port(
    server: &config::Server,
    listening: io::Result<()>,
    running: Option<String>,
) -> Finding {
    let config::Server { host, port, .. } = server;
    match (listening, running) {
        (Ok(()), _) if *port == 0 => Finding::ok(format!("{host}, any free port")),
        (Ok(()), _) => Finding::ok(format!("{host}, port {port} is free")),
        (Err(_), Some(url)) => Finding::ok(format!("a Candor server runs here already: {url}"))
            .warn("Use it or stop it, or choose another port with --port."),
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
                    "not here yet; the server, or `candor fetch`, gets it from {from}: {what}{size}"
                )),
                Some(reason) => Finding::ok(format!("the cached {what} is broken ({reason})"))
                    .warn(format!(
                        "The server, or `candor fetch`, gets it again from {from}{size}."
                    )),
            }
        }
        Ok(File::Here(facts)) => {
            let Facts {
                path, fingerprint, ..
            } = facts;
            let bytes = HumanBytes(facts.bytes);
            let verified = if facts.verified { "; verified" } else { "" };
            match &facts.description {
                Some(description) => Finding::ok(format!(
                    "{path}: {description}, {bytes}; fingerprint {fingerprint}{verified}"
                )),
                None => Finding::ok(format!("{path}: {bytes}; its head cannot be read"))
                    .warn("llama.cpp may not load it. Download or convert it again."),
            }
        }
    }
}

/// The settings refuse layers on a GPU in a build without a back end.
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
        [] => Finding::ok(format!("built with {built}; {layers}; no GPU is found"))
            .warn("Check the driver, and whether this user may use the device."),
        gpus => Finding::ok(format!("built with {built}; {layers}; {}", gpus.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::Refused;

    const GIB: u64 = 1 << 30;

    /// The mark, and each of the words.
    fn assert_is(Finding(mark, text): Finding, expect: Mark, words: &[&str]) {
        assert_eq!(mark, expect, "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn code_that_the_build_lacks_for_the_cpu_is_named() {
        let check = |flags: &str, system_info: &str, mark, words: &[&str]| {
            let cpuinfo = format!("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n");
            assert_is(cpu(&cpuinfo, 4, system_info), mark, words);
        };
        let avx2 = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | REPACK = 1 | ";
        check("avx avx2 fma", avx2, Mark::Ok, &["Some CPU", "4", "avx2"]);
        check(
            "avx avx2 fma",
            "CPU : SSE3 = 1 | ",
            Mark::Warning,
            &["sse", "has AVX2,", "make build"],
        );
        let all = "avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni";
        check(all, avx2, Mark::Warning, &["has AVX512, AVX512_VNNI, and"]);
        let avx512 = "CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | ";
        check(all, avx512, Mark::Ok, &["avx512"]);
        let amx = format!("{all} amx_bf16 amx_tile amx_int8");
        check(
            &amx,
            avx512,
            Mark::Warning,
            &["AMX_INT8", "GCC 11", "Clang 16"],
        );
        check(&amx, &format!("{avx512}AMX_INT8 = 1"), Mark::Ok, &[]);
        let arm = "Features\t: fp asimd asimddp i8mm\n";
        assert_is(
            cpu(arm, 4, "CPU : NEON = 1 | DOTPROD = 1"),
            Mark::Warning,
            &["MATMUL_INT8"],
        );
        // Elsewhere than on Linux nothing is known of it.
        assert_is(cpu("", 4, avx2), Mark::Ok, &[std::env::consts::ARCH]);
    }

    #[test]
    fn routines_are_on_off_refused_or_not_there() {
        let check =
            |here: [bool; 2], off: bool, refused: &[&str], bits: bool, mark, words: &[&str]| {
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
                assert_is(routines(here, &settings, &verdict, "weights"), mark, words);
            };
        check(
            [true, true],
            false,
            &[],
            true,
            Mark::Ok,
            &["amx is on; repack is on; tried with weights"],
        );
        check(
            [false, true],
            false,
            &[],
            true,
            Mark::Ok,
            &["amx is not in this CPU or build"],
        );
        check(
            [true, true],
            true,
            &[],
            true,
            Mark::Ok,
            &["repack is off (engine.repack)"],
        );
        check(
            [true, true],
            false,
            &["amx"],
            true,
            Mark::Warning,
            &[
                "amx is not used, as it ends the process (SIGSEGV); repack is on",
                "engine.amx=off",
            ],
        );
        check(
            [true, true],
            false,
            &[],
            false,
            Mark::Warning,
            &["no result"],
        );
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error_if_that_is_sure() {
        let check = |read, mapped, kv_cache, mark, words: &[&str]| {
            let need = Need {
                read,
                mapped,
                kv_cache,
            };
            assert_is(memory(Some(8 * GIB), Some(4 * GIB), need), mark, words);
        };
        check(0, 0, 0, Mark::Ok, &["4.00 GiB of 8.00 GiB available"]);
        check(
            GIB,
            0,
            3 * GIB,
            Mark::Ok,
            &["weights take 1.00 GiB", "3.00 GiB or more"],
        );
        check(
            5 * GIB,
            0,
            0,
            Mark::Error,
            &["do not fit", "model.mmap=true"],
        );
        check(GIB, 0, 5 * GIB, Mark::Error, &["--context-length"]);
        check(2 * GIB, 0, 3 * GIB, Mark::Warning, &["--context-length"]);
        check(0, 5 * GIB, 0, Mark::Warning, &["smaller model"]);
        let need = Need {
            read: 9 * GIB,
            ..Need::default()
        };
        assert_is(memory(None, None, need), Mark::Ok, &["does not say"]);
    }

    #[test]
    fn huge_pages_that_are_off_are_turned_on_by_root() {
        let check = |text: Option<&str>, mark, words: &[&str]| {
            assert_is(huge_pages(text.map(str::to_owned)), mark, words);
        };
        check(Some("[always] madvise never\n"), Mark::Ok, &["always"]);
        check(Some("always [madvise] never\n"), Mark::Ok, &["madvise"]);
        check(
            Some("always madvise [never]\n"),
            Mark::Warning,
            &["never", "echo madvise >"],
        );
        check(None, Mark::Ok, &["not known"]);
    }

    #[test]
    fn threads_want_cores_that_are_free() {
        let check = |setting, cores, free, mark, words: &[&str]| {
            assert_is(threads(setting, cores, free), mark, words);
        };
        check(0, 4, 4, Mark::Ok, &["now 4 of 4"]);
        check(0, 4, 3, Mark::Warning, &["now 3 of 4", "Other processes"]);
        check(3, 4, 3, Mark::Ok, &["3 (engine.threads)"]);
        check(4, 4, 3, Mark::Warning, &["Other processes"]);
        check(5, 4, 4, Mark::Warning, &["Lower engine.threads"]);
    }

    #[test]
    fn a_port_that_cannot_be_had_is_an_error_unless_candor_has_it() {
        let check = |number: u16,
                     error: Option<io::ErrorKind>,
                     running: Option<&str>,
                     mark,
                     words: &[&str]| {
            let mut server = Config::default().server;
            server.port = number;
            let listening = error.map_or(Ok(()), |kind| Err(kind.into()));
            assert_is(
                port(&server, listening, running.map(str::to_owned)),
                mark,
                words,
            );
        };
        let taken = Some(io::ErrorKind::AddrInUse);
        check(
            8000,
            None,
            None,
            Mark::Ok,
            &["127.0.0.1, port 8000 is free"],
        );
        check(0, None, None, Mark::Ok, &["any free port"]);
        check(8000, taken, None, Mark::Error, &["port 8000", "--port"]);
        check(
            80,
            Some(io::ErrorKind::PermissionDenied),
            None,
            Mark::Error,
            &["1024"],
        );
        check(
            8000,
            taken,
            Some("http://127.0.0.1:8000"),
            Mark::Warning,
            &["runs here already: http"],
        );
    }

    #[test]
    fn a_model_is_here_to_be_fetched_or_missing() {
        let check = |file, mark, words: &[&str]| assert_is(model(&file), mark, words);
        let facts = Facts {
            path: "/models/m.gguf".to_owned(),
            bytes: 3 << 20,
            fingerprint: "0123456789ab".to_owned(),
            description: Some("llama, 1.5M parameters, f16".to_owned()),
            ..Facts::default()
        };
        check(
            Ok(File::Here(facts.clone())),
            Mark::Ok,
            &["/models/m.gguf: llama, 1.5M parameters, f16, 3.00 MiB; fingerprint 0123456789ab"],
        );
        let verified = Facts {
            verified: true,
            ..facts.clone()
        };
        check(Ok(File::Here(verified)), Mark::Ok, &["; verified"]);
        let unread = Facts {
            description: None,
            ..facts
        };
        check(
            Ok(File::Here(unread)),
            Mark::Warning,
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
            Mark::Ok,
            &[
                "not here yet",
                "`candor fetch`",
                "https://index.example: m.gguf (3.00 MiB)",
            ],
        );
        check(
            remote(None, Some("too short")),
            Mark::Warning,
            &["broken (too short)"],
        );
        check(
            Err("there is no file".to_owned()),
            Mark::Error,
            &["there is no file"],
        );
    }

    #[test]
    fn a_build_for_gpus_wants_one() {
        let device = |name: &str, is_gpu| Device {
            name: name.to_owned(),
            description: "some device".to_owned(),
            is_gpu,
            memory_bytes: 2 * GIB,
        };
        let both = [device("CPU", false), device("CUDA0", true)];
        let check = |features: &[&str], devices: &[Device], mark, words: &[&str]| {
            assert_is(gpu(features, devices, 9), mark, words);
        };
        check(&[], &both[..1], Mark::Ok, &["without a GPU"]);
        check(&["cuda"], &both[..1], Mark::Warning, &["no GPU", "driver"]);
        check(
            &["cuda"],
            &both,
            Mark::Ok,
            &[
                "built with cuda",
                "gpu_layers is 9",
                "CUDA0 (some device, 2.00 GiB)",
            ],
        );
    }
}
