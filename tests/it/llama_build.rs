//! How llama.cpp is compiled: its AMX routines must load the tile configuration that they write.
//!
//! Some compilers drop stores to it (`build/tile-config.h` says why), which `build/llama-cpp.cmake` prevents. Few machines
//! can run those routines, so the tests read their assembly. They configure llama.cpp as feature `portable` does, compile
//! its variant for Sapphire Rapids, and compare all 64 bytes that each `ldtilecfg` loads with what
//! `ggml_tile_config_init` assigns.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::server::root;

/// What feature `portable` sets, and less to configure. Without a compiler cache: it would come before the compiler in the
/// commands.
const OPTIONS: [&str; 14] = [
    "CMAKE_BUILD_TYPE=Release",
    "CMAKE_EXPORT_COMPILE_COMMANDS=ON",
    "BUILD_SHARED_LIBS=ON",
    "GGML_BACKEND_DL=ON",
    "GGML_CCACHE=OFF",
    "GGML_CPU_ALL_VARIANTS=ON",
    "GGML_NATIVE=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
    "LLAMA_CURL=OFF",
];

/// The command that compiles `amx/mmq.cpp` for AMX in cargo's build, less the name of the object file. Its other paths are
/// absolute, and it needs nothing that CMake writes.
static COMMAND: LazyLock<String> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(sources()).arg("-B").arg(folder.path());
    cmake.arg(format!(
        "-DCMAKE_PROJECT_INCLUDE={}",
        project_include().display()
    ));
    cmake.args(OPTIONS.map(|option| format!("-D{option}")));
    run(&mut cmake);
    let list = fs::read_to_string(folder.path().join("compile_commands.json")).expect("commands");
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    let mut commands = list.iter().filter_map(|entry| {
        let command = entry["command"].as_str().expect("a command");
        let file = entry["file"].as_str().expect("a file");
        (file.ends_with("amx/mmq.cpp") && command.contains(" -mamx-tile ")).then_some(command)
    });
    let command = commands.next().expect("llama.cpp has a variant with AMX");
    assert_eq!(commands.next(), None, "llama.cpp has one variant with AMX");
    let (before, after) = command.split_once(" -o ").expect("an object file");
    let (_object, source) = after.split_once(' ').expect("a source");
    format!("{before} {source}")
});

/// What a program prints. Panics if it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!("{program}: {error} (`make setup` installs what the build needs)")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// llama.cpp, in the version of llama-cpp-sys-2 that `Cargo.lock` names.
fn sources() -> PathBuf {
    // Without a platform, cargo wants the packages of all others too, which may not be there.
    let metadata = run(Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root()));
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|it| it["name"] == "llama-cpp-sys-2");
    let manifest = package.expect("llama-cpp-sys-2")["manifest_path"].as_str();
    Path::new(manifest.expect("a path")).with_file_name("llama.cpp")
}

/// `CMAKE_PROJECT_INCLUDE` as cargo sets it for build scripts.
fn project_include() -> PathBuf {
    let config = fs::read_to_string(root().join(".cargo/config.toml")).expect("cargo's settings");
    let config: toml::Table = config.parse().expect("TOML");
    let variable = &config["env"]["CMAKE_PROJECT_INCLUDE"];
    assert_eq!(variable["relative"].as_bool(), Some(true));
    let path = root().join(variable["value"].as_str().expect("a path"));
    assert!(path.exists(), "{} does not exist", path.display());
    path
}

/// What the compiler prints if arguments are added to a command. `-S` and `-E` prevail over its `-c`.
fn compile(command: &str, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The command is written for a shell.
    run(Command::new("sh")
        .args(["-c", &format!("{command} \"$@\""), "sh", "-w", "-o", "-"])
        .args(arguments)
        .current_dir(folder.path()))
}

/// Without the labels of debugging information, which would look like targets of jumps.
fn assembly(command: &str) -> String {
    compile(command, &["-S", "-g0"])
}

/// What `llama-cpp.cmake` asks the compiler, asked again: whether it drops a store that only `ldtilecfg` reads.
fn drops_stores() -> bool {
    let compiler = COMMAND.split_once(" -").expect("options").0;
    let probe = root().join("build/tile-config-probe.cpp");
    let probe = probe.to_str().expect("UTF-8");
    let assembly = compile(compiler, &["-O3", "-march=sapphirerapids", "-S", probe]);
    let argument = ["%dil", "%di", "%edi", "%rdi"];
    assembly.contains("ldtilecfg") && !argument.iter().any(|name| assembly.contains(name))
}

/// The instructions are those of x86-64, and assembly differs between systems.
fn can_be_tested() -> bool {
    let can = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    if !can {
        println!("skipped: only for x86-64 Linux");
    }
    can
}

#[test]
fn amx_routines_load_the_tile_configuration_that_they_write() {
    if !can_be_tested() {
        return;
    }
    let loads = check(&assembly(&COMMAND)).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("the tile configuration is complete before {loads} ldtilecfg");
    if loads == 0 {
        // Clang before 16 has another name for the macro that llama.cpp asks for, and compiles no AMX routine.
        let macros = compile(&COMMAND, &["-E", "-dM"]);
        assert!(!macros.contains("#define __AMX_INT8__ "), "no ldtilecfg");
    }
    assert_eq!(
        COMMAND.contains("tile-config.h"),
        drops_stores(),
        "build/tile-config.h is for compilers that drop stores"
    );
}

/// The check is able to fail: it does without the header, where the compiler needs it.
#[test]
fn without_the_header_the_tile_configuration_is_incomplete() {
    if !can_be_tested() {
        return;
    }
    if !drops_stores() {
        println!("this compiler keeps all stores without the header");
        return;
    }
    let header = root().join("build/tile-config.h");
    let header = header.display();
    let bare = COMMAND
        .replace(&format!("-include {header}"), "")
        .replace(&format!("-include \"{header}\""), "");
    assert!(!bare.contains("tile-config.h"), "{bare}");
    let wrong = check(&assembly(&bare)).expect_err("the check sees that stores are missing");
    println!("without the header: {wrong}");
}

/// As GCC 12 writes it, with the header.
const BY_CONSTANTS: &str = "\
f:
    vpxor %xmm0, %xmm0, %xmm0
    movq .LC1(%rip), %rdx
    vmovdqa64 %zmm0, 192(%rsp)
    vmovdqa .LC2(%rip), %xmm0
    movb $1, 192(%rsp)
    movq %rdx, 240(%rsp)
    vmovdqa %xmm0, 208(%rsp)
    ldtilecfg 192(%rsp)
.LC1:
    .byte 8
    .byte 8
    .value 4112
    .long 269488144
    .set .LC2,.LC3+8
.LC3:
    .zero 8
    .quad 9007336697888832
    .quad 18014673391583296
";

/// As Clang 19 writes it, with the address of GCC 14.
const BY_NUMBERS: &str = "\
f:
    leaq 192(%rsp), %rdi
    cmpb $0, f@DTPOFF(%rax)
    jne .LBB3_141
# %bb.140:
    vxorps %xmm0, %xmm0, %xmm0
    vmovaps %zmm0, 192(%rsp)
    movb $1, 192(%rsp)
    movabsq $1157442765409224712, %rcx      # imm = 0x1010101010100808
    movq %rcx, 240(%rsp)
    movl $64, %ecx
    movw %cx, 208(%rsp)
    movw $64, 210(%rsp)
    movl $2097184, 20(%rdi)
    movabsq $18014673391583296, %rcx        # imm = 0x40004000400040
    movq %rcx, 216(%rsp)
    ldtilecfg (%rdi)
";

#[test]
fn the_check_follows_stores() {
    for complete in [BY_CONSTANTS, BY_NUMBERS] {
        assert_eq!(check(complete), Ok(1));
        // Every instruction counts, except a comparison and a jump.
        for line in complete.lines().filter(|line| line.starts_with("    ")) {
            let less = complete.replace(&format!("{line}\n"), "");
            let needed =
                !line.contains("ldtilecfg") && !line.contains("cmpb") && !line.contains("jne");
            assert_eq!(check(&less).is_err(), needed, "without {line}");
        }
        // So does what may happen to the configuration after it is written.
        for line in [
            ".L1:",
            "call g",
            "movl %eax, 252(%rsp)",
            "vaddps 192(%rsp), %zmm0, %zmm1\n vmovups %zmm1, 192(%rsp)",
            "addl %eax, 208(%rsp)",
            "subq $64, %rsp",
            "rep stosq %al, (%rdi)",
        ] {
            let spoiled = complete.replace("    ldtilecfg", &format!("{line}\n    ldtilecfg"));
            check(&spoiled).expect_err(line);
        }
    }
    let masked = BY_CONSTANTS.replace("(%rip), %xmm0", "(%rip), %xmm0{%k1}");
    check(&masked).expect_err("a part of a register is written");
}

/// What `ggml_tile_config_init` assigns: the palette, bytes per row from byte 16, rows from byte 48.
fn configuration() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (tile, columns) in [64, 64, 32, 32, 64, 64, 64, 64].into_iter().enumerate() {
        bytes[16 + 2 * tile] = columns;
    }
    bytes[48..56].copy_from_slice(&[8, 8, 16, 16, 16, 16, 16, 16]);
    bytes
}

/// Returns the number of `ldtilecfg` in an assembly, or the first that does not load the configuration.
fn check(assembly: &str) -> Result<usize, String> {
    let lines: Vec<&str> = assembly.lines().map(without_comment).collect();
    let expected: Vec<Byte> = configuration().into_iter().map(Some).collect();
    let mut loads = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(source) = line.strip_prefix("ldtilecfg") else {
            continue;
        };
        loads += 1;
        // Jumps may lead to a label from elsewhere: what precedes it says nothing.
        let label = lines[..at].iter().rposition(|line| line.ends_with(':'));
        let mut state = State::new(&lines);
        for line in &lines[label.map_or(0, |label| label + 1)..at] {
            if !line.is_empty() && !line.starts_with('.') {
                state.step(line);
            }
        }
        let loaded = state.read(&operand(source.trim()), expected.len());
        if loaded != expected {
            return Err(format!(
                "ldtilecfg in line {} of the assembly loads (??: not known to be stored)\n{}\ninstead of\n{}",
                at + 1,
                hexadecimal(&loaded),
                hexadecimal(&expected)
            ));
        }
    }
    Ok(loads)
}

fn hexadecimal(bytes: &[Byte]) -> String {
    let bytes = bytes
        .iter()
        .map(|byte| byte.map_or("??".to_owned(), |byte| format!("{byte:02x}")));
    bytes.collect::<Vec<_>>().join(" ")
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// `None`: not known.
type Byte = Option<u8>;

/// A register, and what is added to it.
type Address = (String, i64);

/// An operand in the syntax of AT&T.
#[derive(PartialEq)]
enum Operand {
    Immediate(i128),
    /// By the name of the widest register that it is a part of, and its width in bytes.
    Register(String, usize),
    Memory(Address),
    /// A label in the program, and what is added to it.
    Constant(String, usize),
    Other,
}

fn operand(text: &str) -> Operand {
    if let Some(value) = text.strip_prefix('$') {
        return value.parse().map_or(Operand::Other, Operand::Immediate);
    }
    if let Some((name, width)) = register(text) {
        return Operand::Register(name, width);
    }
    let Some((offset, base)) = text.strip_suffix(')').and_then(|it| it.split_once('(')) else {
        return Operand::Other;
    };
    if base == "%rip" {
        let (label, offset) = label_and_offset(offset);
        return Operand::Constant(label.to_owned(), offset);
    }
    let offset = if offset.is_empty() { "0" } else { offset };
    match (register(base), offset.parse()) {
        (Some((name, _)), Ok(offset)) => Operand::Memory((name, offset)),
        _ => Operand::Other,
    }
}

/// `.LC1+8`: the label, and the number of bytes after it.
fn label_and_offset(text: &str) -> (&str, usize) {
    match text.split_once('+') {
        Some((label, offset)) => (label, offset.parse().expect("a number after a label")),
        None => (text, 0),
    }
}

/// The widest register that one is a part of, and its own width in bytes.
fn register(text: &str) -> Option<(String, usize)> {
    const GENERAL: [[&str; 4]; 8] = [
        ["rax", "eax", "ax", "al"],
        ["rbx", "ebx", "bx", "bl"],
        ["rcx", "ecx", "cx", "cl"],
        ["rdx", "edx", "dx", "dl"],
        ["rsi", "esi", "si", "sil"],
        ["rdi", "edi", "di", "dil"],
        ["rbp", "ebp", "bp", "bpl"],
        ["rsp", "esp", "sp", "spl"],
    ];
    let name = text.strip_prefix('%')?;
    for (prefix, width) in [("xmm", 16), ("ymm", 32), ("zmm", 64)] {
        if let Some(number) = name.strip_prefix(prefix) {
            let number: u8 = number.parse().ok()?;
            return Some((format!("zmm{number}"), width));
        }
    }
    for names in GENERAL {
        if let Some(at) = names.iter().position(|other| *other == name) {
            return Some((names[0].to_owned(), 8 >> at));
        }
    }
    let numbered = name.trim_end_matches(['d', 'w', 'b']);
    numbered.strip_prefix('r')?.parse::<u8>().ok()?;
    let width = match &name[numbered.len()..] {
        "" => 8,
        "d" => 4,
        "w" => 2,
        _ => 1,
    };
    Some((numbered.to_owned(), width))
}

/// Splits `192(%rsp,%rax,4), %xmm0` at the comma between operands.
fn operands(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .map(str::trim)
    .collect()
}

/// What registers and memory hold on a straight run of instructions. What it does not understand makes bytes unknown, so
/// that the check fails rather than passes.
struct State<'a> {
    assembly: &'a [&'a str],
    /// All 64 bytes of each, where anything is known of them.
    registers: HashMap<String, Vec<Byte>>,
    /// By the register of the address and the offset. Nothing else points to a configuration that is being written.
    memory: HashMap<Address, u8>,
    /// Registers that were set to an address relative to another.
    addresses: HashMap<String, Address>,
}

impl<'a> State<'a> {
    fn new(assembly: &'a [&'a str]) -> Self {
        State {
            assembly,
            registers: HashMap::new(),
            memory: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    fn reset(&mut self) {
        *self = State::new(self.assembly);
    }

    fn resolve(&self, (base, offset): &Address) -> Address {
        match self.addresses.get(base) {
            Some((other, more)) => (other.clone(), more + offset),
            None => (base.clone(), *offset),
        }
    }

    fn read(&self, source: &Operand, size: usize) -> Vec<Byte> {
        let known = match source {
            Operand::Immediate(value) => value.to_le_bytes().map(Some).to_vec(),
            Operand::Register(name, _) => self.registers.get(name).cloned().unwrap_or_default(),
            Operand::Memory(address) => {
                let (base, offset) = self.resolve(address);
                let bytes = (offset..).map(|at| self.memory.get(&(base.clone(), at)).copied());
                bytes.take(size).collect()
            }
            Operand::Constant(label, offset) => constant(self.assembly, label)
                .get(*offset..)
                .map(|bytes| bytes.iter().copied().map(Some).collect())
                .unwrap_or_default(),
            Operand::Other => Vec::new(),
        };
        known.into_iter().chain([None; 64]).take(size).collect()
    }

    fn write(&mut self, target: &Operand, mut value: Vec<Byte>) {
        match target {
            Operand::Register(name, _) => {
                // Writing one or two bytes keeps the others, of which nothing is assumed; writing more zeroes the rest.
                let rest = if value.len() < 4 { None } else { Some(0) };
                value.resize(64, rest);
                self.registers.insert(name.clone(), value);
                self.memory.retain(|(base, _), _| base != name);
                self.addresses.remove(name);
                self.addresses.retain(|_, (base, _)| base != name);
            }
            Operand::Memory(address) => {
                let (base, offset) = self.resolve(address);
                for (at, byte) in (offset..).zip(value) {
                    let key = (base.clone(), at);
                    match byte {
                        Some(byte) => self.memory.insert(key, byte),
                        None => self.memory.remove(&key),
                    };
                }
            }
            Operand::Immediate(_) | Operand::Constant(..) | Operand::Other => {}
        }
    }

    /// Follows one instruction.
    fn step(&mut self, line: &str) {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let masked = rest.contains('{');
        let parsed: Vec<Operand> = operands(rest)
            .iter()
            .map(|text| operand(text.split('{').next().unwrap_or_default()))
            .collect();
        // AVX's names are SSE's with a `v`.
        let name = name.strip_prefix('v').unwrap_or(name);
        match parsed.as_slice() {
            _ if writes_nothing(name) => {}
            [.., target] if masked => self.write(target, vec![None; 64]),
            [source, target] if moved(name, source, target) > 0 => {
                let value = self.read(source, moved(name, source, target));
                self.write(target, value);
            }
            [
                Operand::Memory(address),
                target @ Operand::Register(register, 8),
            ] if name == "leaq" => {
                let address = self.resolve(address);
                self.write(target, vec![None; 64]);
                if address.0 != *register {
                    self.addresses.insert(register.clone(), address);
                }
            }
            [one, other] | [one, other, _] if is_xor(name) && one == other => {
                let target = parsed.last().expect("a target");
                self.write(target, vec![Some(0); 64]);
            }
            // The last operand is the target, unless there are others that the text does not name.
            [_, .., target] if !name.starts_with("rep") && !name.starts_with("xchg") => {
                self.write(target, vec![None; 64]);
            }
            _ => self.reset(),
        }
    }
}

fn writes_nothing(name: &str) -> bool {
    let compares = ["cmpb", "cmpw", "cmpl", "cmpq"].contains(&name) || name.starts_with("test");
    compares || name.starts_with('j') || name == "ldtilecfg"
}

/// How many bytes an instruction moves from one operand to the other. 0: it does something else.
fn moved(name: &str, source: &Operand, target: &Operand) -> usize {
    match name {
        "movb" => 1,
        "movw" => 2,
        "movl" | "movd" => 4,
        "movq" | "movabsq" => 8,
        "movaps" | "movapd" | "movups" | "movupd" | "movdqa" | "movdqa32" | "movdqa64"
        | "movdqu" | "movdqu8" | "movdqu16" | "movdqu32" | "movdqu64" => match (source, target) {
            (Operand::Register(_, width), _) | (_, Operand::Register(_, width)) => *width,
            _ => 0,
        },
        _ => 0,
    }
}

fn is_xor(name: &str) -> bool {
    matches!(
        name,
        "pxor" | "pxord" | "pxorq" | "xorps" | "xorpd" | "xorl" | "xorq"
    )
}

/// The bytes after a label, as far as they are written as numbers.
fn constant(assembly: &[&str], label: &str) -> Vec<u8> {
    let alias = assembly.iter().find_map(|line| {
        let (name, value) = line.strip_prefix(".set")?.split_once(',')?;
        (name.trim() == label).then(|| label_and_offset(value.trim()))
    });
    if let Some((other, offset)) = alias {
        return constant(assembly, other).split_off(offset);
    }
    let start = assembly
        .iter()
        .position(|line| line.strip_suffix(':') == Some(label));
    let mut bytes = Vec::new();
    for line in &assembly[start.map_or(assembly.len(), |start| start + 1)..] {
        let (name, values) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let size = match name {
            ".byte" => 1,
            ".value" | ".short" | ".2byte" => 2,
            ".long" | ".4byte" => 4,
            ".quad" | ".8byte" => 8,
            ".zero" | ".skip" | ".space" => {
                bytes.resize(bytes.len() + values.trim().parse().unwrap_or(0), 0);
                continue;
            }
            _ => break,
        };
        for value in values.split(',') {
            let Ok(value) = value.trim().parse::<i128>() else {
                return bytes;
            };
            bytes.extend(&value.to_le_bytes()[..size]);
        }
    }
    bytes
}
